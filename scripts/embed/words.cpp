// words.cpp -- a tool in C++: which words do the sources of a tree use, and how often?
//
//   words [-w WORKERS] [-t TOP] DIRECTORY...     (as many as there are processors, 10)
//
// Two C++ threads look for files and read them; the main thread has a Lua state whose allocator counts every byte, and gives each text to a
// worker, which takes it apart with Lua's patterns; it adds up what comes back. Because the program has threads when the jobs start,
// workers are forked from the copy of it that luapool_init_early made when it had none: no other program need be installed.
// Ctrl-C: luapool_interrupt in the handler; what was counted so far is shown, everything is ended in good order, and the program dies of
// the signal as a shell expects.
//
// Build:  c++ -std=c++17 -o words words.cpp $(pkg-config --cflags --libs luapool lua5.4) -lpthread
#include <luapool.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

extern "C" {
#include <lauxlib.h>
#include <lualib.h>
}

namespace {

// Runs in the workers. Returns the counts of a text's words, its lines.
const char task[] =
  "return function(text)\n"
  "  local counts, lines = {}, 0\n"
  "  for word in text:gmatch('[%a_][%w_]+') do counts[word] = (counts[word] or 0) + 1 end\n"
  "  for _ in text:gmatch('\\n') do lines = lines + 1 end\n"
  "  return counts, lines\n"
  "end\n";

constexpr size_t QUEUE = 32;              // texts that wait at most
constexpr size_t LARGEST = 1 << 20;       // files beyond it are no sources
constexpr int TURN_MS = 20;

volatile sig_atomic_t signalled;

void on_signal(int signo) {
  signalled = signo;
  luapool_interrupt();
}

// ---- what Lua has of memory ----

struct Account {
  size_t now = 0, most = 0;
};

void *allocate(void *context, void *block, size_t before, size_t after) {
  auto *account = static_cast<Account *>(context);
  if (block == nullptr) before = 0; // (Lua says the kind of a new object there)
  if (after == 0) {
    std::free(block);
    account->now -= before;
    return nullptr;
  }
  void *result = std::realloc(block, after);
  if (result == nullptr) return nullptr;
  account->now += after - before;
  account->most = std::max(account->most, account->now);
  return result;
}

// ---- texts on their way from the readers ----

class Texts {
public:
  void put(std::string text) {
    std::unique_lock<std::mutex> lock(mutex);
    has_room.wait(lock, [this] { return texts.size() < QUEUE || is_stopped; });
    if (!is_stopped) texts.push_back(std::move(text));
    has_text.notify_one();
  }
  // Is there one? Waits for it a moment.
  bool take(std::string *text, int wait_ms) {
    std::unique_lock<std::mutex> lock(mutex);
    has_text.wait_for(lock, std::chrono::milliseconds(wait_ms), [this] { return !texts.empty() || writers == 0; });
    if (texts.empty()) return false;
    *text = std::move(texts.front());
    texts.pop_front();
    has_room.notify_one();
    return true;
  }
  void join(int change) { // of those who put
    std::lock_guard<std::mutex> lock(mutex);
    writers += change;
    has_text.notify_all();
  }
  bool is_over() {
    std::lock_guard<std::mutex> lock(mutex);
    return writers == 0 && texts.empty();
  }
  void stop() {
    std::lock_guard<std::mutex> lock(mutex);
    is_stopped = true;
    texts.clear();
    has_room.notify_all();
  }
  bool stopped() {
    std::lock_guard<std::mutex> lock(mutex);
    return is_stopped;
  }

private:
  std::mutex mutex;
  std::condition_variable has_text, has_room;
  std::deque<std::string> texts;
  int writers = 0;
  bool is_stopped = false;
};

bool is_source(const std::filesystem::path &path) {
  static const char *const endings[] = {".c", ".h", ".cc", ".cpp", ".hpp", ".lua", ".py", ".sh"};
  return std::any_of(std::begin(endings), std::end(endings), [&](const char *ending) { return path.extension() == ending; });
}

// Each reader takes the files of its number.
void read_files(const std::vector<std::filesystem::path> *files, size_t number, size_t readers, Texts *texts) {
  for (size_t i = number; i < files->size() && !texts->stopped(); i += readers) {
    std::ifstream file((*files)[i], std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    texts->put(std::move(text));
  }
  texts->join(-1);
}

std::vector<std::filesystem::path> find_files(const std::vector<std::string> &directories) {
  std::vector<std::filesystem::path> files;
  for (const auto &directory : directories)
    for (const auto &entry : std::filesystem::recursive_directory_iterator(directory))
      if (entry.is_regular_file() && is_source(entry.path()) && entry.file_size() <= LARGEST) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

// ---- the pool ----

struct Interrupted {};

class Counter {
public:
  Counter(lua_State *state, int workers) : L(state) {
    luapool_options options;
    std::memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.workers = workers;
    options.grace = 0.5;
    check(luapool_open(L, &options, &pool));
    if (luaL_dostring(L, task) != LUA_OK) throw std::runtime_error(lua_tostring(L, -1));
    function = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  ~Counter() {
    for (auto *job : jobs) luapool_forget(L, job);
    luapool_terminate(L, pool, -1);
  }
  Counter(const Counter &) = delete;
  Counter &operator=(const Counter &) = delete;

  size_t in_flight() const { return jobs.size(); }

  void submit(const std::string &text) {
    luapool_job *job;
    lua_rawgeti(L, LUA_REGISTRYINDEX, function);
    lua_pushlstring(L, text.data(), text.size());
    check(luapool_submit(L, pool, 2, &job));
    jobs.push_back(job);
    bytes += text.size();
  }

  // What has come is taken; waits for it a moment. Signals end the wait.
  void turn(int wait_ms) {
    struct pollfd one = {luapool_fd(pool), POLLIN, 0};
    if (!luapool_poll(pool)) (void)poll(&one, 1, wait_ms);
    check(luapool_step(L, pool, 0));
    for (size_t i = 0; i < jobs.size();) {
      if (!luapool_is_done(jobs[i])) {
        i++;
        continue;
      }
      luapool_job *job = jobs[i];
      jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(i));
      int status = luapool_result(L, job, 0, 2);
      luapool_forget(L, job);
      check(status);
      add();
    }
  }

  void print(size_t top) const {
    std::vector<std::pair<std::string, long>> list(words.begin(), words.end());
    std::sort(list.begin(), list.end(), [](const auto &a, const auto &b) {
      return a.second > b.second || (a.second == b.second && a.first < b.first);
    });
    std::printf("%ld files, %ld lines, %zu bytes, %zu words\n", files, lines, bytes, words.size());
    for (size_t i = 0; i < list.size() && i < top; i++) std::printf("%7ld  %s\n", list[i].second, list[i].first.c_str());
  }

private:
  void add() { // counts and lines are on top
    files++;
    lines += static_cast<long>(lua_tointeger(L, -1));
    lua_pop(L, 1);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
      words[lua_tostring(L, -2)] += static_cast<long>(lua_tointeger(L, -1));
      lua_pop(L, 1);
    }
    lua_pop(L, 1);
  }

  // An error of the library becomes an exception; its value is on top of the stack.
  void check(int status) {
    if (status == LUAPOOL_OK || status == LUAPOOL_PENDING) return;
    std::string what = status == LUAPOOL_ERROR ? luaL_tolstring(L, -1, nullptr) : "not enough memory";
    lua_settop(L, 0);
    if (signalled) throw Interrupted();
    throw std::runtime_error(what);
  }

  lua_State *L;
  luapool *pool = nullptr;
  int function = LUA_NOREF;
  std::vector<luapool_job *> jobs;
  std::map<std::string, long> words;
  long files = 0, lines = 0;
  size_t bytes = 0;
};

// Returns the signal that ended it early, or 0.
int count(lua_State *L, int workers, size_t top, const std::vector<std::string> &directories) {
  const auto files = find_files(directories);
  Counter counter(L, workers);
  Texts texts;
  std::vector<std::thread> readers;
  for (size_t i = 0; i < 2; i++) {
    texts.join(1);
    readers.emplace_back(read_files, &files, i, 2, &texts);
  }
  std::string failure, text;
  try {
    while (!texts.is_over() || counter.in_flight() > 0) {
      bool is_full = counter.in_flight() >= QUEUE;
      if (signalled) throw Interrupted();
      if (!is_full && texts.take(&text, counter.in_flight() ? 0 : TURN_MS)) counter.submit(text);
      else if (counter.in_flight()) counter.turn(TURN_MS);
    }
  } catch (const Interrupted &) {
    std::fputs("words: interrupted; so far:\n", stderr);
  } catch (const std::exception &e) {
    failure = e.what();
  }
  texts.stop();
  for (auto &reader : readers) reader.join();
  if (!failure.empty()) throw std::runtime_error(failure);
  counter.print(top);
  return signalled;
}

int run(int argc, char **argv) {
  std::vector<std::string> directories;
  int workers = 0;
  size_t top = 10;
  for (int i = 1; i < argc; i++) {
    std::string word = argv[i];
    if ((word == "-w" || word == "-t") && i + 1 < argc && std::atoi(argv[i + 1]) > 0) {
      if (word == "-w") workers = std::atoi(argv[++i]);
      else top = static_cast<size_t>(std::atoi(argv[++i]));
    } else {
      directories.push_back(word);
    }
  }
  if (directories.empty() || directories[0][0] == '-') {
    std::fputs("usage: words [-w WORKERS] [-t TOP] DIRECTORY...\n", stderr);
    return 2;
  }
  Account account;
  lua_State *L = lua_newstate(allocate, &account);
  if (L == nullptr) throw std::runtime_error("not enough memory");
  luaL_openlibs(L);
  if (luapool_init_early(L) != LUAPOOL_OK) throw std::runtime_error(luaL_tolstring(L, -1, nullptr));
  struct sigaction action;
  std::memset(&action, 0, sizeof action);
  action.sa_handler = on_signal;
  sigaction(SIGINT, &action, nullptr);
  int signo = count(L, workers, top, directories);
  lua_close(L);
  std::fprintf(stderr, "Lua had %zu KiB at most, and has %zu bytes now\n", account.most >> 10, account.now);
  if (signo) {
    std::fflush(stdout);
    signal(signo, SIG_DFL);
    raise(signo);
  }
  return 0;
}

} // namespace

int main(int argc, char **argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception &e) {
    std::fprintf(stderr, "words: %s\n", e.what());
    return 1;
  }
}
