/*
 * mpi/mpi -- the engine over MPI: luapool-mpi.so.
 *
 * Room: mpi (may include cluster/engine.h).  Owns: what is under way, both ways.
 * Point to point only, calls of MPI 3.0, so that every MPI will do. Nothing waits inside MPI: what waits there spins. A probe looks first and
 * makes progress then, so that what has come is seen by the second of two.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/engine.h"

enum { TAG = 7, RECEIVES = 256 /* begun at a time */ };

struct letter {
  struct letter *next;
  MPI_Request request;
  int rank, is_done;
  size_t length;
  void *data;
};

struct letters {
  struct letter *first, **end;
  int count;
};

static struct letters sending, receiving;
static MPI_Comm world;

static void append(struct letters *list, struct letter *letter) {
  letter->next = NULL;
  *list->end = letter;
  list->end = &letter->next;
  list->count++;
}

/* Take the letter at `at` out of the list; the caller frees it. */
static struct letter *detach(struct letters *list, struct letter **at) {
  struct letter *letter = *at;
  *at = letter->next;
  if (letter->next == NULL) list->end = at;
  list->count--;
  return letter;
}

/*
 * Open MPI's shared memory has a name until MPI_Finalize: what is killed leaves it. Nobody needs the name once those who talk to each other
 * have done so.
 */
static void unlink_segments(void) {
  char line[4352], *path;
  FILE *maps = fopen("/proc/self/maps", "r");
  while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
    path = strchr(line, '/');
    if (path == NULL || strstr(path, "/vader_segment.") == NULL) continue;
    path[strcspn(path, " \n")] = '\0';
    (void)unlink(path);
  }
  if (maps != NULL) (void)fclose(maps);
}

#if defined(OPEN_MPI)
/* Has this machine a network that MPI can use beside TCP? */
static int has_fabric(void) {
  static const char *const classes[] = {"/sys/class/infiniband", "/sys/class/hfi1", "/sys/class/cxi"};
  for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
    struct dirent *entry = NULL;
    DIR *folder = opendir(classes[i]);
    while (folder != NULL && (entry = readdir(folder)) != NULL && entry->d_name[0] == '.') continue;
    if (folder != NULL) (void)closedir(folder);
    if (entry != NULL) return 1;
  }
  return 0;
}
#endif

/* Looking for such networks is half of the time that Open MPI takes to start: not where there are none, unless the user says what to use. */
static void prepare(void) {
#if defined(OPEN_MPI)
  if (!has_fabric()) (void)setenv("OMPI_MCA_pml", "ob1", 0);
#endif
}

/* The manager and each of the others connect. */
static void meet(int rank, int size) {
  char none = 0;
  for (int other = 1; other < size; other++) {
    int partner = rank == 0 ? other : 0;
    if (rank != 0 && rank != other) continue;
    MPI_Sendrecv(&none, 1, MPI_BYTE, partner, TAG, &none, 1, MPI_BYTE, partner, TAG, world, MPI_STATUS_IGNORE);
  }
  MPI_Barrier(world);
}

static int mpi_start(int *rank, int *size, char *text, size_t capacity) {
  int provided = 0;
  sending.end = &sending.first;
  receiving.end = &receiving.first;
  prepare();
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) {
    snprintf(text, capacity, "MPI_Init failed");
    return -1;
  }
  if (MPI_Comm_dup(MPI_COMM_WORLD, &world) != MPI_SUCCESS) {
    snprintf(text, capacity, "MPI_Comm_dup failed");
    return -1;
  }
  MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world, rank);
  MPI_Comm_size(world, size);
  meet(*rank, *size);
  unlink_segments();
  return 0;
}

static int mpi_send(int to, void *data, size_t length) {
  struct letter *letter = calloc(1, sizeof *letter);
  if (letter == NULL || length > INT_MAX) {
    free(letter);
    free(data);
    return letter == NULL ? -ENOMEM : -EMSGSIZE;
  }
  letter->rank = to;
  letter->data = data;
  letter->length = length;
  if (MPI_Isend(data, (int)length, MPI_BYTE, to, TAG, world, &letter->request) != MPI_SUCCESS) {
    free(data);
    free(letter);
    return -EIO;
  }
  append(&sending, letter);
  return 0;
}

/* A message has been matched: have it come. */
static int begin_receive(MPI_Message *message, const MPI_Status *status) {
  struct letter *letter = calloc(1, sizeof *letter);
  int count = 0;
  if (letter == NULL) return -ENOMEM;
  MPI_Get_count(status, MPI_BYTE, &count);
  letter->rank = status->MPI_SOURCE;
  letter->length = (size_t)count;
  letter->data = malloc(letter->length ? letter->length : 1);
  if (letter->data == NULL || MPI_Imrecv(letter->data, count, MPI_BYTE, message, &letter->request) != MPI_SUCCESS) {
    free(letter->data);
    free(letter);
    return -EIO;
  }
  append(&receiving, letter);
  return 0;
}

static int mpi_probe(void) {
  int empty = 0;
  while (empty < 2 && receiving.count < RECEIVES) {
    MPI_Message message;
    MPI_Status status;
    int is_there = 0, result;
    if (MPI_Improbe(MPI_ANY_SOURCE, TAG, world, &is_there, &message, &status) != MPI_SUCCESS) return -EIO;
    if (!is_there) {
      empty++;
      continue;
    }
    empty = 0;
    result = begin_receive(&message, &status);
    if (result < 0) return result;
  }
  return 0;
}

/* Is an earlier message of the same sender still coming? */
static int has_earlier(const struct letter *letter) {
  const struct letter *other;
  for (other = receiving.first; other != letter; other = other->next)
    if (other->rank == letter->rank) return 1;
  return 0;
}

static int mpi_receive(int *from, void **data, size_t *length) {
  struct letter **at;
  for (at = &receiving.first; *at != NULL; at = &(*at)->next) {
    struct letter *letter = *at;
    if (!letter->is_done && MPI_Test(&letter->request, &letter->is_done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return -EIO;
    if (!letter->is_done || has_earlier(letter)) continue;
    detach(&receiving, at);
    *from = letter->rank;
    *data = letter->data;
    *length = letter->length;
    free(letter);
    return 1;
  }
  return 0;
}

static int mpi_progress(int *lost) {
  struct letter **at = &sending.first;
  *lost = -1;
  while (*at != NULL) {
    struct letter *letter = *at;
    int is_done = 0;
    if (MPI_Test(&letter->request, &is_done, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
      *lost = letter->rank;
      return sending.count;
    }
    if (!is_done) {
      at = &letter->next;
      continue;
    }
    detach(&sending, at);
    free(letter->data);
    free(letter);
  }
  return sending.count;
}

/* MPI may write into what it was given as long as the process lives: the buffers stay. */
static void forget(struct letters *list, int rank) {
  struct letter **at = &list->first;
  while (*at != NULL) {
    if ((*at)->rank != rank) at = &(*at)->next;
    else (void)detach(list, at);
  }
}

static void mpi_forget(int rank) {
  forget(&sending, rank);
  forget(&receiving, rank);
}

static void mpi_stop(int is_clean) {
  if (is_clean) MPI_Finalize();
}

#if defined(OPEN_MPI)
#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define ENGINE_NAME "Open MPI " TEXT(OMPI_MAJOR_VERSION) "." TEXT(OMPI_MINOR_VERSION) "." TEXT(OMPI_RELEASE_VERSION)
#elif defined(MPICH_VERSION)
#define ENGINE_NAME "MPICH " MPICH_VERSION
#else
#define ENGINE_NAME "MPI"
#endif

extern const struct engine luapool_engine;
__attribute__((visibility("default"))) const struct engine luapool_engine = {
  ENGINE_ABI, ENGINE_NAME, mpi_start, mpi_send, mpi_probe, mpi_receive, mpi_progress, mpi_forget, mpi_stop};
