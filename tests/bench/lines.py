"""lines.py CHUNK -- the lines of standard input through Pool(2).imap and out again, in order: what `luapool map _` does.

CHUNK: imap's chunksize (1 is its default), or 0: Pool.map, which reads everything first and cuts it by itself.
"""
import multiprocessing
import sys


def same(line):
    return line


if __name__ == "__main__":
    chunk = int(sys.argv[1])
    with multiprocessing.Pool(2) as pool:
        results = pool.imap(same, sys.stdin, chunksize=chunk) if chunk else pool.map(same, sys.stdin)
        sys.stdout.writelines(results)
