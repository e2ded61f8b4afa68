/*
 * mpi/mpi -- the engine over MPI: luapool-mpi.so.
 *
 * Room: mpi (may include cluster/engine.h, mpi/lines.h).  Owns: what is under way, both ways.
 * Point to point only, calls of MPI 3.0, so that every MPI will do. Nothing waits inside MPI: what waits there spins. A probe looks first
 * and makes progress then, so that what has come is seen by the second of two.
 */
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cluster/engine.h"
#include "mpi/lines.h"

enum { TAG = 7, RECEIVES = 256 /* begun at a time */, EAGER = 65536 /* shorter letters go as a whole */,
       LABEL = 4096 /* what else goes first of each, and what the system needs for itself */ };

struct letter {
  struct letter *next;
  MPI_Request request;
  int rank;
  size_t length;
  void *data;
};

/* What is under way to (or from) one rank, in its order. */
struct queue {
  struct letter *first, **end;
  int place; /* in requests; -1: nothing is under way */
};

/*
 * One way. MPI is asked for the oldest letter of each rank only, for all of them at once: each question that finds nothing done makes it
 * look after everything, so that one for each letter would cost the more the more there are.
 */
struct traffic {
  struct queue *queues; /* by rank */
  int n_ranks;          /* that have an oldest one: */
  MPI_Request *requests;
  int *ranks, *done;
  MPI_Status *statuses;
  int n_letters;
};

static struct traffic sending, receiving;
/*
 * What the system does not take at once waits here, by rank. Would Open MPI have it waiting while its connection ends, it would end this
 * process ("FATAL", from its callback), and the job with it: a node that comes back after its link was down is enough.
 */
static struct queue *held;
static int n_held;

static struct letter *arrived, **arrived_end = &arrived; /* whole; nobody has taken them yet */
static int unreachable = -1; /* a rank, until it is told */
static const MPI_Comm world = MPI_COMM_WORLD;
static int n_ranks;

static int open_traffic(struct traffic *t, int n) {
  size_t count = (size_t)n;
  t->queues = calloc(count, sizeof *t->queues);
  t->requests = calloc(count, sizeof(MPI_Request));
  t->ranks = calloc(count, sizeof *t->ranks);
  t->done = calloc(count, sizeof *t->done);
  t->statuses = calloc(count, sizeof *t->statuses);
  if (!t->queues || !t->requests || !t->ranks || !t->done || !t->statuses) return -ENOMEM;
  for (int rank = 0; rank < n; rank++) {
    t->queues[rank].end = &t->queues[rank].first;
    t->queues[rank].place = -1;
  }
  return 0;
}

/* The rank's oldest letter is asked for from now on; if it has none, nothing is. */
static void renew_place(struct traffic *t, int rank) {
  struct queue *queue = &t->queues[rank];
  if (queue->first != NULL && queue->place < 0) queue->place = t->n_ranks++;
  if (queue->first != NULL) {
    t->requests[queue->place] = queue->first->request;
    t->ranks[queue->place] = rank;
  } else if (queue->place >= 0) {
    int last = --t->n_ranks, place = queue->place;
    t->requests[place] = t->requests[last];
    t->ranks[place] = t->ranks[last];
    t->queues[t->ranks[last]].place = place;
    queue->place = -1;
  }
}

static void append(struct traffic *t, int rank, struct letter *letter) {
  struct queue *queue = &t->queues[rank];
  letter->next = NULL;
  *queue->end = letter;
  queue->end = &letter->next;
  t->n_letters++;
  if (queue->first == letter) renew_place(t, rank);
}

/* Take the rank's oldest letter out; the caller frees it. */
static struct letter *detach(struct traffic *t, int rank) {
  struct queue *queue = &t->queues[rank];
  struct letter *letter = queue->first;
  queue->first = letter->next;
  if (queue->first == NULL) queue->end = &queue->first;
  t->n_letters--;
  return letter;
}

static void free_letter(struct letter *letter) {
  free(letter->data);
  free(letter);
}

typedef void take_letter(int rank, struct letter *);

/* Take out what is done, as far as it is the oldest of its rank. 0; or -EIO. *lost: a rank that MPI cannot reach (or as it was). */
static int settle(struct traffic *t, take_letter *take, int *lost) {
  for (;;) {
    int n = 0, result = t->n_ranks > 0 ? MPI_Testsome(t->n_ranks, t->requests, &n, t->done, t->statuses) : MPI_SUCCESS;
    if (result != MPI_SUCCESS && result != MPI_ERR_IN_STATUS) return -EIO;
    if (t->n_ranks == 0 || n == 0 || n == MPI_UNDEFINED) return 0;
    for (int i = 0; i < n; i++) t->done[i] = t->ranks[t->done[i]]; /* places change now */
    for (int i = 0; i < n; i++) {
      int rank = t->done[i], has_failed = result == MPI_ERR_IN_STATUS && t->statuses[i].MPI_ERROR != MPI_SUCCESS;
      struct letter *letter = detach(t, rank);
      if (has_failed) *lost = rank;
      if (has_failed) free_letter(letter);
      else take(rank, letter);
      renew_place(t, rank);
    }
  }
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

/*
 * What makes MPI's start shorter, unless the user says otherwise: looking for such networks is half of it where there are none; whoever has
 * started need not wait for the others, for we meet anyhow; who waits lets others run meanwhile; and it does not matter what displays there
 * are.
 */
static void prepare(void) {
#if defined(OPEN_MPI)
  if (!has_fabric()) (void)setenv("OMPI_MCA_pml", "ob1", 0);
  (void)setenv("OMPI_MCA_async_mpi_init", "1", 0);
  (void)setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  (void)setenv("HWLOC_COMPONENTS", "-gl,-opencl", 0);
#endif
}

/* Have MPI send it. */
static int begin_send(int to, struct letter *letter) {
  if (MPI_Isend(letter->data, (int)letter->length, MPI_BYTE, to, TAG, world, &letter->request) != MPI_SUCCESS) {
    free_letter(letter);
    return -EIO;
  }
  append(&sending, to, letter);
  return 0;
}

/* Of long letters only a label goes, until the other side asks for the rest, which may wait inside MPI without harm. */
static int is_room_for(const struct letter *letter, int room) {
  return room == LINES_UNKNOWN || room == LINES_EMPTY || room >= LABEL + (letter->length < EAGER ? (int)letter->length : 0);
}

static void hold(int to, struct letter *letter) {
  letter->next = NULL;
  *held[to].end = letter;
  held[to].end = &letter->next;
  n_held++;
}

static struct letter *take_held(int to) {
  struct letter *letter = held[to].first;
  held[to].first = letter->next;
  if (held[to].first == NULL) held[to].end = &held[to].first;
  n_held--;
  return letter;
}

static void drop_held(int to) {
  while (held[to].first != NULL) free_letter(take_held(to));
}

static int send_held(int to) {
  int status = 0, room;
  while (status == 0 && held[to].first != NULL && (room = lines_room(to)) != LINES_ENDED && is_room_for(held[to].first, room))
    status = begin_send(to, take_held(to));
  return status;
}

/*
 * To whom the connection has ended, nothing is given any more: Open MPI would connect again and again, and mix up its own lists. That he is
 * gone is told by mpi_progress.
 */
static int mpi_send(int to, void *data, size_t length) {
  struct letter *letter = NULL;
  int room = lines_room(to);
  if (room == LINES_ENDED || length > INT_MAX || (letter = calloc(1, sizeof *letter)) == NULL) {
    free(data);
    return room == LINES_ENDED ? 0 : length > INT_MAX ? -EMSGSIZE : -ENOMEM;
  }
  letter->data = data;
  letter->length = length;
  if (held[to].first == NULL && is_room_for(letter, room)) return begin_send(to, letter);
  hold(to, letter);
  return 0;
}

/* A message has been matched: have it come. */
static int begin_receive(MPI_Message *message, const MPI_Status *status) {
  struct letter *letter = calloc(1, sizeof *letter);
  int count = 0;
  if (letter == NULL) return -ENOMEM;
  MPI_Get_count(status, MPI_BYTE, &count);
  letter->length = (size_t)count;
  letter->data = malloc(letter->length ? letter->length : 1);
  if (letter->data == NULL || MPI_Imrecv(letter->data, count, MPI_BYTE, message, &letter->request) != MPI_SUCCESS) {
    free_letter(letter);
    return -EIO;
  }
  append(&receiving, status->MPI_SOURCE, letter);
  return 0;
}

static void note_arrived(int rank, struct letter *letter) {
  letter->request = MPI_REQUEST_NULL;
  letter->rank = rank;
  letter->next = NULL;
  *arrived_end = letter;
  arrived_end = &letter->next;
}

static int mpi_probe(void) {
  int empty = 0;
  while (empty < 2 && receiving.n_letters < RECEIVES) {
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
  return settle(&receiving, note_arrived, &unreachable);
}

static int mpi_receive(int *from, void **data, size_t *length) {
  struct letter *letter = arrived;
  if (letter == NULL) return 0;
  arrived = letter->next;
  if (arrived == NULL) arrived_end = &arrived;
  *from = letter->rank;
  *data = letter->data;
  *length = letter->length;
  free(letter);
  return 1;
}

static void note_sent(int rank, struct letter *letter) {
  (void)rank;
  free_letter(letter);
}

/* Whose line has ended may have said something before: it is told at the next call, after another probe. */
static int mpi_progress(int *lost) {
  int status = 0;
  *lost = unreachable;
  unreachable = lines_broken();
  for (int rank = 0; rank < n_ranks && n_held > 0 && status == 0; rank++) status = send_held(rank);
  if (status < 0 || settle(&sending, note_sent, &unreachable) < 0) return -EIO;
  return sending.n_letters + n_held;
}

/* MPI may write into what it was given as long as the process lives: the buffers stay. */
static void forget(struct traffic *t, int rank) {
  while (t->queues[rank].first != NULL) (void)detach(t, rank);
  renew_place(t, rank);
}

static void mpi_forget(int rank) {
  forget(&sending, rank);
  forget(&receiving, rank);
  drop_held(rank);
}

/* ---- the beginning ---- */

/* The next message of anybody, while all start: *data is the caller's (free). Its sender; -EIO. */
static int await(void **data, size_t *length) {
  struct timespec pause = {0, 50 * 1000};
  int from, lost;
  for (;;) {
    if (mpi_probe() < 0) return -EIO;
    if (mpi_receive(&from, data, length) == 1) return from;
    if (mpi_progress(&lost) < 0) return -EIO;
    (void)nanosleep(&pause, NULL);
    if (pause.tv_nsec < 1000 * 1000) pause.tv_nsec *= 2;
  }
}

static int give(int to, const void *data, size_t length) {
  void *block = malloc(length ? length : 1);
  if (block == NULL) return -ENOMEM;
  if (length) memcpy(block, data, length);
  return mpi_send(to, block, length);
}

/* Open MPI's own way over TCP keeps the first connection to each as long as both live. Of others nobody knows. */
static size_t list_lines(struct line **lines) {
  const char *pml = getenv("OMPI_MCA_pml");
  *lines = NULL;
  return pml != NULL && strcmp(pml, "ob1") == 0 ? lines_list(lines) : 0;
}

/* Each of the others has sent its list (and before that a message, on such a line): which of its lines leads to us? */
static int match_all(int *answers) {
  struct line *own;
  size_t n_own = list_lines(&own), length;
  void *data;
  int from = 0;
  for (int i = 1; i < n_ranks && (from = await(&data, &length)) >= 0; i++) {
    int at = lines_match(own, n_own, data, length / sizeof *own, &answers[from]);
    if (at >= 0) lines_watch(from, own[at].fd);
    free(data);
  }
  free(own);
  return from < 0 ? from : 0;
}

/* The manager: all others say that they are there, are answered, tell their lines, and learn which one is watched. */
static int meet_all(void) {
  int *answers = calloc((size_t)n_ranks, sizeof *answers), status = answers ? 0 : -ENOMEM;
  void *data;
  size_t length;
  for (int i = 1; i < n_ranks && status >= 0; i++) {
    status = await(&data, &length);
    if (status >= 0) free(data);
  }
  for (int rank = 1; rank < n_ranks && status >= 0; rank++) status = give(rank, NULL, 0);
  if (status >= 0) status = match_all(answers);
  for (int rank = 1; rank < n_ranks && status >= 0; rank++) status = give(rank, &answers[rank], sizeof answers[rank]);
  free(answers);
  return status;
}

static int tell_lines(void) {
  struct line *own;
  size_t n = list_lines(&own), length;
  void *data;
  int status = give(0, own, n * sizeof *own), answer = -1;
  if (status == 0) status = await(&data, &length);
  if (status >= 0) {
    if (length == sizeof answer) memcpy(&answer, data, sizeof answer);
    if (answer >= 0 && (size_t)answer < n) lines_watch(0, own[answer].fd);
    free(data);
  }
  free(own);
  return status;
}

static int meet_manager(void) {
  size_t length;
  void *data;
  int status = give(0, NULL, 0);
  if (status == 0) status = await(&data, &length);
  if (status < 0) return status;
  free(data);
  return tell_lines();
}

static int open_all(void) {
  held = calloc((size_t)n_ranks, sizeof *held);
  if (held == NULL) return -ENOMEM;
  for (int rank = 0; rank < n_ranks; rank++) held[rank].end = &held[rank].first;
  return open_traffic(&sending, n_ranks) < 0 ? -ENOMEM : open_traffic(&receiving, n_ranks);
}

static int mpi_start(int *rank, int *size, char *text, size_t capacity) {
  int provided = 0;
  prepare();
  if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SINGLE, &provided) != MPI_SUCCESS) {
    snprintf(text, capacity, "MPI_Init failed");
    return -1;
  }
  MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
  MPI_Comm_rank(world, rank);
  MPI_Comm_size(world, size);
  n_ranks = *size;
  if (open_all() < 0 || (*rank == 0 ? meet_all() : meet_manager()) < 0) {
    snprintf(text, capacity, "the processes of the job could not connect");
    return -1;
  }
  unlink_segments();
  return 0;
}

static void mpi_stop(int is_clean) {
  if (!is_clean) return;
  lines_hurry(); /* the last words to the launcher's daemon are small ones: each would wait for its predecessor to be acknowledged */
  MPI_Finalize();
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
