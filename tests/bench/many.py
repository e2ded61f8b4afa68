# tests/bench/many.py SINGLE ALL -- the same with mpi4py.futures: empty tasks in a second, alone and in chunks. By "python3 -m mpi4py.futures".
import sys
import time
from mpi4py.futures import MPIPoolExecutor


def empty(x):
    return x


def rate(executor, n, chunk):
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for _ in executor.map(empty, range(n), chunksize=chunk):
            pass
        best = min(best, time.perf_counter() - started)
    return n / best


if __name__ == "__main__":
    with MPIPoolExecutor() as pool:
        list(pool.map(empty, range(100)))
        print(rate(pool, 20000, 1), rate(pool, 2000000, 1000))
