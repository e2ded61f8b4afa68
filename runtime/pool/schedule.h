/*
 * pool/schedule -- the decisions of the pool as pure arithmetic: no clock, no memory, no system call.
 *
 * Room: pool.  Owns: nothing.  Every function's result depends on its arguments alone; tests use invented times.
 */
#ifndef LUAPOOL_POOL_SCHEDULE_H
#define LUAPOOL_POOL_SCHEDULE_H

#include <stdint.h>

/*
 * schedule_claim -- how many items a worker should claim at once.
 *   left      items not claimed yet (> 0)
 *   workers   workers that share them (> 0)
 *   item_ns   how long an item takes lately; 0: nobody knows yet
 *   chunk     the user's wish, 0: none
 * Returns 1 .. left. Guided self-scheduling (Polychronopoulos and Kuck, 1987: a share of what is left, so that claims shrink
 * towards the end),
 * bounded by a time target, because costs may be uneven; one item while nothing is known.
 */
uint64_t schedule_claim(uint64_t left, uint32_t workers, uint64_t item_ns, uint32_t chunk);

/* schedule_item_ns -- the new estimate after `items` items took elapsed_ns, when `before` was the estimate (0: none). At least 1. */
uint64_t schedule_item_ns(uint64_t before, uint64_t items, int64_t elapsed_ns);

/* schedule_first_guess -- what to take an item's time for at first, when items of an earlier call of the same function took item_ns. */
uint64_t schedule_first_guess(uint64_t item_ns);

/*
 * schedule_takers -- how many workers will take part in `left` items: each may take one, but one alone is done first with next to nothing.
 */
uint64_t schedule_takers(uint64_t left, uint64_t item_ns);

/*
 * schedule_block -- how many items the host writes into one block of a lazy source.
 *   left       items to come, or UINT64_MAX when nobody knows
 *   written    items written so far in this call: blocks grow while nothing is known about the time
 */
uint64_t schedule_block(uint64_t left, uint64_t written, uint32_t workers, uint64_t item_ns, uint32_t chunk);

/* schedule_window -- how many blocks may be written ahead of the workers. */
uint32_t schedule_window(uint32_t workers);

/*
 * schedule_ahead -- how many items of a stream may be out or waiting from the one on that the consumer is at.
 *   item_ns, chunk   as above
 */
uint64_t schedule_ahead(uint32_t workers, uint64_t item_ns, uint32_t chunk);

/*
 * schedule_spinners -- how many sleepless searchers there is a processor for.
 *   cpus, busy   usable processors, and how many of them are at work (the host counts when it is)
 */
uint32_t schedule_spinners(uint32_t cpus, uint32_t busy);

/* schedule_retry -- 1 if an item that failed `tries` times may be tried again when `retries` were granted. */
int schedule_retry(uint32_t tries, uint32_t retries);

/*
 * schedule_delay_ns -- how long to wait before an item that failed `tries` times is tried again: first_ns, and twice as long each
 * time, up to an hour (or first_ns, if that is more).
 */
int64_t schedule_delay_ns(uint32_t tries, int64_t first_ns);

/* schedule_gives_up -- 1 if workers die before they are ready so often that no further one should be started. */
int schedule_gives_up(uint32_t failed_starts, uint32_t workers);

#endif
