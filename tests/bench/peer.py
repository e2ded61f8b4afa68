"""peer.py WORKLOAD [ROUNDS] -- the same jobs with Python's multiprocessing.Pool(2); prints median seconds: serial, pool.

The pool of `squares` and the others is created before the clock starts, except for `create`: then a pool is created, used for
one task, and closed. `apply` prints the median of single round trips (serial: 0).
"""
import math
import multiprocessing
import statistics
import sys
import time

COLUMNS, ROWS, STEPS = 480, 320, 200


def square(x):
    return x * x


def mandelbrot_row(row):
    counts = []
    cy = (row - 0.5) / ROWS * 2.4 - 1.2
    for column in range(1, COLUMNS + 1):
        cx = (column - 0.5) / COLUMNS * 3.6 - 2.4
        x = y = 0.0
        steps = 0
        while steps < STEPS and x * x + y * y <= 4.0:
            x, y = x * x - y * y + cx, 2.0 * x * y + cy
            steps += 1
        counts.append(steps)
    return counts


def primes_below(n):
    count = 0
    for candidate in range(2, n):
        divisor, is_prime = 2, True
        while divisor * divisor <= candidate:
            if candidate % divisor == 0:
                is_prime = False
                break
            divisor += 1
        count += is_prime
    return count


def record(i):
    return {"id": i, "half": i * 0.5, "name": "item %d" % i, "is_even": i % 2 == 0}


def upper(text):
    return text.upper()


WORKLOADS = {
    "squares": lambda: (square, range(1, 1000001)),
    "mandelbrot": lambda: (mandelbrot_row, range(1, ROWS + 1)),
    "sorted": lambda: (primes_below, range(1, 2001)),
    "heavy": lambda: (primes_below, [math.floor(300 + 30000 / math.sqrt(i * 163 % 401 + 1)) for i in range(1, 401)]),
    "records": lambda: (record, range(1, 100001)),
    "payload": lambda: (upper, [bytes([97 + i % 26]) * (1 << 20) for i in range(1, 257)]),
}


def timed(action):
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def use_once():
    with multiprocessing.Pool(2) as pool:
        pool.apply(square, (2,))
        pool.close()
        pool.join()


def main():
    name = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    if name == "create":
        print(0, statistics.median(timed(use_once) for _ in range(rounds * 3)))
        return
    with multiprocessing.Pool(2) as pool:
        if name == "apply":
            print(0, statistics.median(timed(lambda: pool.apply(square, (2,))) for _ in range(2000)))
            return
        fn, items = WORKLOADS[name]()
        pool.apply(square, (2,))
        serial, parallel = [], []
        for _ in range(rounds):
            serial.append(timed(lambda: [fn(x) for x in items]))
            parallel.append(timed(lambda: pool.map(fn, items)))
        print(statistics.median(serial), statistics.median(parallel))


if __name__ == "__main__":
    main()
