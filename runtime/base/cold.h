/*
 * base/cold -- functions that are compiled small in files that are compiled fast.
 *
 * Room: base.
 * COLD before a definition: it runs once for each pool, process or failure, or waits for the system. A function that always calls one is
 * taken for cold, too, and what leads to one for unlikely: not for what each item, chunk or small call passes through.
 */
#ifndef LUAPOOL_BASE_COLD_H
#define LUAPOOL_BASE_COLD_H

#ifdef __GNUC__
#define COLD __attribute__((cold))
#else
#define COLD
#endif

#endif
