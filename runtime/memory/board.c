/* memory/board -- see board.h. */
#include "memory/board.h"

#include <errno.h>

#include "base/os.h"

enum { SPARE_BYTES = 16 << 20 };

static size_t slots_end(uint32_t n_workers) {
  size_t end = sizeof(struct board) + n_workers * (sizeof(struct board_slot) + BOARD_WORDS_BYTES);
  return (end + CHANNEL_ALIGN - 1) & ~(size_t)(CHANNEL_ALIGN - 1);
}

static size_t board_size(uint32_t n_workers, uint64_t ring_bytes) {
  return slots_end(n_workers) + n_workers * channel_size(ring_bytes);
}

/* fd -1: memory without a file. */
static int map_new(size_t size, int fd, void **memory) {
  int status;
  if (fd < 0) return os_map_shared(size, memory);
  status = os_memory_stretch(fd, size);
  return status < 0 ? status : os_map_file(fd, size, memory);
}

/* Items, results and the program itself need addresses, too, where these are scarce (ulimit -v; 32 bits). */
static int is_room_left(void) {
  void *memory;
  if (os_map_shared(SPARE_BYTES, &memory) < 0) return 0;
  os_unmap(memory, SPARE_BYTES);
  return 1;
}

/* With the largest rings, up to *ring_bytes, that leave room. */
static int map_with_rings(uint32_t n_workers, uint64_t *ring_bytes, int fd, void **memory) {
  for (;; *ring_bytes /= 2) {
    size_t size = board_size(n_workers, *ring_bytes);
    int status = map_new(size, fd, memory), is_least = *ring_bytes <= CHANNEL_MIN_BYTES;
    if (status == 0 && (is_least || is_room_left())) return 0;
    if (status == 0) os_unmap(*memory, size);
    else if ((status != -ENOMEM && status != -EFBIG) || is_least) return status; /* (a limit on file sizes is one on memory files, too) */
  }
}

static int open_board(struct board **out, uint32_t n_workers, uint64_t ring_bytes, int fd) {
  void *memory;
  enum board_lane lane;
  int status = map_with_rings(n_workers, &ring_bytes, fd, &memory);
  if (status < 0) return status;
  *out = memory;
  for (lane = 0; lane < BOARD_LANES; lane++) {
    atomic_store(&(*out)->published[lane], board_first(lane));
    atomic_store(&(*out)->front[lane], board_first(lane));
  }
  (*out)->n_workers = n_workers;
  (*out)->ring_bytes = ring_bytes;
  (*out)->n_cpus = (uint32_t)os_cpus_lately();
  atomic_store(&(*out)->n_sharing, n_workers);
  atomic_store(&(*out)->n_places, n_workers);
  return 0;
}

int board_open(struct board **out, uint32_t n_workers, uint64_t ring_bytes) {
  return open_board(out, n_workers, ring_bytes, -1);
}

int board_open_file(struct board **out, uint32_t n_workers, uint64_t ring_bytes, int *fd) {
  int status, file = os_memory_file("luapool-board");
  if (file < 0) return file;
  status = open_board(out, n_workers, ring_bytes, file);
  if (status < 0) {
    os_close(&file);
    return status;
  }
  *fd = file;
  return 0;
}

int board_attach(struct board **out, int fd) {
  int64_t there = os_size(fd);
  size_t size;
  void *memory;
  int status = there < (int64_t)sizeof(struct board) ? -EBADMSG : os_map_file(fd, sizeof(struct board), &memory);
  if (status < 0) return status;
  size = board_size(((struct board *)memory)->n_workers, ((struct board *)memory)->ring_bytes);
  os_unmap(memory, sizeof(struct board));
  if (size > (size_t)there) return -EBADMSG;
  status = os_map_file(fd, size, &memory);
  if (status == 0) *out = memory;
  return status;
}

void board_close(struct board *b) {
  if (b != NULL) os_unmap(b, board_size(b->n_workers, b->ring_bytes));
}

void board_channel(struct board *b, uint32_t number, struct channel *c) {
  unsigned char *rings = (unsigned char *)b + slots_end(b->n_workers);
  channel_attach(c, rings + number * channel_size(b->ring_bytes), b->ring_bytes);
}

char *board_last_words(struct board *b, uint32_t number) {
  return (char *)(b->slots + b->n_workers) + (size_t)number * BOARD_WORDS_BYTES;
}

void board_reset_slot(struct board *b, uint32_t number) {
  struct board_slot *slot = &b->slots[number];
  atomic_store(&slot->command, 0);
  atomic_store(&slot->must_leave, 0);
  atomic_store(&slot->has_last_words, 0);
  atomic_store(&slot->processor, 0);
  atomic_store(&slot->summons, 0);
  atomic_store(&slot->progress_done, 0);
  atomic_store(&slot->progress_total, 0);
  atomic_store(&slot->turned_ns, 0);
  atomic_store(&slot->item_started_ns, 0);
  atomic_store(&slot->continued_ns, 0);
  atomic_store(&slot->output_read[0], 0);
  atomic_store(&slot->output_read[1], 0);
  atomic_store(&slot->phase, BOARD_STARTING);
}
