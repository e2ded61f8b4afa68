# luapool: a Lua 5.4 runtime whose programs use every core.  `make help` lists the targets.

# ---- settings (make CC=clang, make BUILD=build/other, make PREFIX=$HOME/.local install) --------
CC        ?= cc
OPTIMIZE  ?= -O2 -g
SANITIZE  ?=
FAULTS    ?=
# The library for programs that mind its size: without its features (runtime/binding/features.h; WITH="journal trace" keeps some), in as
# little code as the compiler can make of it, as build/small/libluapool.a.
SMALL     ?=
WITH      ?=
BUILD     ?= $(if $(SMALL),build/small,build)
PREFIX    ?= /usr/local
BINDIR    ?= $(PREFIX)/bin
LIBDIR    ?= $(PREFIX)/lib
CMODDIR   ?= $(LIBDIR)/lua/5.4
INCLUDEDIR ?= $(PREFIX)/include
LIBEXECDIR ?= $(PREFIX)/libexec
DATADIR   ?= $(PREFIX)/share
MANDIR    ?= $(DATADIR)/man
LUA_PC    := $(firstword $(foreach p,lua5.4 lua-5.4 lua54 lua,$(shell pkg-config --exists '$(p) >= 5.4 $(p) < 5.5' 2>/dev/null && echo $(p))))
LUA       := $(firstword $(foreach p,lua5.4 lua-5.4 lua54 lua,$(shell command -v $(p) 2>/dev/null)))
TESTS     ?=
MPI       ?=
MPICC     ?= mpicc
# So many test files run at the same time: one more than two processors, since most of them wait most of the time.
JOBS      ?= 3
# What is worth the time under valgrind, and what has threads; TESTS says otherwise.
VALGRIND_TESTS ?= -c
TSAN_TESTS     ?= -c
# ---- no need to change anything below this line ------------------------------------------------

VERSION   := $(shell sed -n 's/^.define LUAPOOL_VERSION "\(.*\)"/\1/p' runtime/luapool.h)
WARNINGS  := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror=vla
LUA_CFLAGS := $(if $(LUA_INCDIR),-I$(LUA_INCDIR),$(if $(LUA_PC),$(shell pkg-config --cflags $(LUA_PC))))
LUA_LIBDIR := $(if $(LUA_PC),$(shell pkg-config --variable=libdir $(LUA_PC)))
LUA_STATIC := $(firstword $(wildcard $(LUA_LIBDIR)/liblua5.4.a $(LUA_LIBDIR)/liblua-5.4.a $(LUA_LIBDIR)/liblua54.a $(LUA_LIBDIR)/liblua.a))
LUA_SHARED := $(if $(LUA_PC),$(shell pkg-config --libs $(LUA_PC)))
,         := ,
LUA_LINK   = $(if $(LUA_STATIC),-Wl$(,)--whole-archive $(LUA_STATIC) -Wl$(,)--no-whole-archive,$(LUA_SHARED))
# (Files may be larger than 2 GiB on machines of 32 bits, too.)
CPPFLAGS  += -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -Iruntime -I$(BUILD) $(LUA_CFLAGS) $(if $(FAULTS),-DLUAPOOL_FAULTS)
CFLAGS    += -std=c11 $(OPTIMIZE) -fPIC -fexceptions -fvisibility=hidden -ffunction-sections -fdata-sections -ffile-prefix-map=$(CURDIR)=. $(WARNINGS) $(STRICT) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
CXXFLAGS  += -std=c++11 -pedantic $(OPTIMIZE) -Wall -Wextra $(STRICT) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
# The smallest code that the compiler knows to make (-Oz: gcc 12, clang).
SMALLEST := $(shell $(CC) -Oz -E -x c /dev/null >/dev/null 2>&1 && echo -Oz || echo -Os)
# Small instead of fast is what runs once for each pool, process, file or failure, or waits for the system: where items, results and
# tasks pass through stays at $(OPTIMIZE). Kept to that by counting instructions (callgrind) of maps, streams, records and tasks.
COLD := \
  base/base64 base/fault base/os base/os_file base/os_machine base/os_memory base/os_process base/packed base/record base/share base/watch base/wire \
  memory/board memory/segment \
  process/interrupt process/process process/process_child process/process_fds process/process_tree process/server \
  pool/account pool/errand pool/gate pool/journal pool/ledger pool/pause pool/pool pool/record pool/recovery pool/recruit pool/table pool/tally \
  pool/trace pool/tracefile pool/watch \
  job/boot job/closure job/codec_read_environment job/codec_read_function job/codec_read_name job/codec_read_userdata \
  job/codec_write_environment job/codec_write_error job/codec_write_function job/codec_write_name job/codec_write_userdata \
  job/early job/input job/last_words job/names job/shared job/task job/task_error job/task_job job/task_slow \
  binding/lchannel binding/lclass binding/lcounter binding/learly binding/lembed binding/lerror binding/lfingerprint binding/lhelper \
  binding/lidle binding/ljournal binding/llock binding/lluapool binding/lpace binding/lpool binding/lprogram binding/lpump binding/lsend \
  binding/lshared binding/lterminal binding/ltrace binding/lverb binding/lwarn binding/lwire binding/lworker

# Below `job` nothing knows Lua, and no function that is given to these floors to be called raises (worker.h, server.h, process.h say so): no
# exception of a Lua compiled as C++ ever passes there, and no tables are needed to find the way through (a sixth of their code; `make check`
# looks whether what has none calls what can raise). Debuggers take theirs from -g, sanitizers have these.
NO_TABLES ?= $(if $(SANITIZE),,base memory process pool)

# What nobody calls is left out.
GC_SECTIONS := -Wl,$(if $(filter Darwin,$(shell uname -s)),-dead_strip,--gc-sections)
LDFLAGS   += $(GC_SECTIONS) $(if $(SANITIZE),-fsanitize=$(SANITIZE))
NEEDS_LUA  = $(if $(LUA_PC),,$(error pkg-config finds no Lua 5.4 with headers: run scripts/install-dependencies))
# One line for each file made; VERBOSE=1 shows the commands.
QUIET      = $(NEEDS_LUA)$(if $(VERBOSE),,@echo "  make $@";)
COMPILE    = $(QUIET) mkdir -p $(@D); $(CC) $(CPPFLAGS) $(CFLAGS)

# The floors, lowest first; a floor calls only floors before it (checked by `make check`).
FLOORS    := base memory process pool job binding
LIBRARY   := $(sort $(wildcard $(FLOORS:%=runtime/%/*.c)))
COMMAND   := $(sort $(wildcard runtime/cluster/*.c runtime/command/*.c))
# What the command alone needs is not in the library.
LUA_LIBRARY := $(sort $(wildcard lua/luapool/*.lua))
LUA_COMMAND := $(sort $(wildcard lua/cluster/*.lua lua/command/*.lua))
C_TESTS   := $(sort $(wildcard tests/c/test_*.c))
LIB_OBJ   := $(if $(SMALL),$(BUILD)/amalgamation/luapool.o,$(LIBRARY:%.c=$(BUILD)/%.o) $(BUILD)/embedded.o)
CMD_OBJ   := $(COMMAND:%.c=$(BUILD)/%.o) $(BUILD)/embedded_command.o
FAULTY    := $(BUILD)/faults
PROBES    := $(filter-out $(C_TESTS),$(wildcard tests/c/*.c))
HOSTS     := $(wildcard tests/hosts/*.c tests/hosts/*.cpp scripts/embed/*.c scripts/embed/*.cpp)
TEST_BIN  := $(patsubst %.c,$(BUILD)/%,$(patsubst %.cpp,$(BUILD)/%,$(HOSTS))) $(PROBES:tests/c/%.c=$(BUILD)/tests/%.so) $(C_TESTS:tests/c/%.c=$(BUILD)/tests/%)

.DEFAULT_GOAL := all
.PHONY: all always demo test rig simulate nightly soak check bench size portable abi systems asan ubsan tsan valgrind install install-rock uninstall dist deb debian-files packages clean help faults test-programs run-tests objects amalgamation
.SECONDARY:

all: $(if $(SMALL),,$(BUILD)/luapool) $(BUILD)/lua/luapool.so $(BUILD)/libluapool.a $(BUILD)/libluapool.so.0 $(BUILD)/luapool.pc $(if $(MPI),$(BUILD)/luapool-mpi.so) ## build the command, the library and the module (SMALL=1: the small library, in build/small)

# (What the flags are is said here.)
$(BUILD)/%.o: %.c Makefile
	$(COMPILE) -MMD -MP -c -o $@ $<

$(foreach folder,$(BUILD) $(BUILD)/faults,$(COLD:%=$(folder)/runtime/%.o)): CFLAGS += $(if $(filter -O2,$(OPTIMIZE)),$(SMALLEST))

$(foreach floor,$(NO_TABLES),$(BUILD)/runtime/$(floor)/%.o $(FAULTY)/runtime/$(floor)/%.o): CFLAGS += -fno-exceptions -fno-unwind-tables -fno-asynchronous-unwind-tables

$(BUILD)/embedded%.o: $(BUILD)/embedded%.c
	$(COMPILE) -c -o $@ $<

$(BUILD)/embedded.o: $(BUILD)/embedded.c
	$(COMPILE) -c -o $@ $<

# The Lua files become C arrays, packed.
EMBED = @mkdir -p $(@D); $(if $(LUA),echo "  make $@",echo "no Lua 5.4 interpreter here: run scripts/install-dependencies"; exit 1); \
  $(LUA) scripts/embed-lua.lua
$(BUILD)/embedded.c: $(LUA_LIBRARY) scripts/embed-lua.lua
	$(EMBED) embedded_files $(LUA_LIBRARY) > $@.new && mv $@.new $@

$(BUILD)/embedded_command.c: $(LUA_COMMAND) scripts/embed-lua.lua
	$(EMBED) embedded_command $(LUA_COMMAND) > $@.new && mv $@.new $@

# Small: one file, of which the compiler sees all; nothing that an exception of a Lua compiled as C++ needs; each feature as WITH says.
SMALL_FLAGS = -DLUAPOOL_SMALL $(foreach name,$(WITH),-DLUAPOOL_HAS_$(shell echo $(name) | tr a-z A-Z)=1) -Wno-unused-function -Wno-shadow \
  $(if $(filter -O2,$(OPTIMIZE)),$(SMALLEST)) $(if $(filter exceptions,$(WITH)),,-fno-exceptions -fno-unwind-tables -fno-asynchronous-unwind-tables)
$(BUILD)/amalgamation/luapool.o: $(BUILD)/amalgamation/luapool.c $(BUILD)/places
	$(COMPILE) $(SMALL_FLAGS) $(HELPER_PLACES) -I$(@D) -c -o $@ $<

$(BUILD)/libluapool.a: $(LIB_OBJ)
	@rm -f $@
	$(QUIET)$(AR) rcs $@ $^

# What is linked takes the place of what was there at once: programs that run from here meanwhile never find half of it.
# C modules (lpeg, cjson, lfs, socket) find Lua's symbols in the command itself: -Wl,-E. What it takes from libc is looked up once, at its
# start, and not again in each worker: -z now.
# Lua's archive comes first: where its virtual machine lies within a line of the instruction cache makes arithmetic up to a fifth slower or
# faster, and shall not change with every line of ours (it still does with the number of functions that we take from libc).
LINK_COMMAND = $(QUIET) $(CC) $(LDFLAGS) -Wl,-E -Wl,-z,now -o $@.new $(if $(LUA_STATIC),$(LUA_LINK)) $^ $(if $(LUA_STATIC),,$(LUA_LINK)) -lm -ldl && mv $@.new $@
$(BUILD)/luapool: $(CMD_OBJ) $(LIB_OBJ)
	$(LINK_COMMAND)

# The module is not linked to liblua: it uses the Lua of the program that loads it.
$(BUILD)/lua/luapool.so: $(LIB_OBJ)
	@mkdir -p $(@D)
	$(QUIET) $(CC) $(LDFLAGS) -shared -o $@.new $^ && mv $@.new $@

# Neither is the shared library, for programs with a Lua of their own.
$(BUILD)/libluapool.so.0: $(LIB_OBJ)
	$(QUIET) $(CC) $(LDFLAGS) -shared -Wl,-soname,libluapool.so.0 -o $@.new $^ -lm -ldl -lpthread && mv $@.new $@ && ln -sf libluapool.so.0 $(BUILD)/libluapool.so

# It says where it is put, and is made again when that is somewhere else (make install PREFIX=$HOME/.local).
$(BUILD)/luapool.pc: always
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$(INCLUDEDIR)' '' 'Name: luapool' \
	  'Description: pools of worker processes for programs that embed Lua 5.4' 'Version: $(VERSION)' \
	  'Libs: -L$${libdir} -lluapool' 'Libs.private: -lm -ldl -lpthread' 'Cflags: -I$${includedir}' > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

always:

# All of the library in one file and its header, for programs that take it into their own tree.
AMALGAMATED := $(foreach floor,$(FLOORS),$(sort $(wildcard runtime/$(floor)/*.c))) $(BUILD)/embedded.c
$(BUILD)/amalgamation/luapool.c: $(AMALGAMATED) $(wildcard runtime/*/*.h) scripts/amalgamate.lua
	@mkdir -p $(@D)
	$(QUIET) cp $(BUILD)/embedded.c runtime/luapool.h $(@D) && $(LUA) scripts/amalgamate.lua $@ $(AMALGAMATED)

amalgamation: $(BUILD)/amalgamation/luapool.c ## luapool.c and luapool.h, to put among the sources of another program
	@rm -f $(BUILD)/amalgamation/embedded.c
	@echo "$(BUILD)/amalgamation/luapool.c $(BUILD)/amalgamation/luapool.h"

# Where the helper is looked for, beside other places. What was built for others is made again by `make install`, and by it alone.
TO_INSTALL := $(filter install,$(MAKECMDGOALS))
$(BUILD)/places: $(if $(TO_INSTALL),always)
	@mkdir -p $(@D); echo '$(BINDIR) $(LIBEXECDIR)' > $@.new; if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

$(BUILD)/runtime/binding/lhelper.o: $(if $(TO_INSTALL),,|) $(BUILD)/places
HELPER_PLACES = -DLUAPOOL_BINDIR='"$(BINDIR)"' -DLUAPOOL_LIBEXECDIR='"$(LIBEXECDIR)/luapool"'
$(BUILD)/runtime/binding/lhelper.o: CPPFLAGS += $(HELPER_PLACES)

objects: $(LIB_OBJ) $(CMD_OBJ) $(if $(MPI),$(BUILD)/luapool-mpi.so)

# The engine for many machines. The command opens it when it is wanted; nothing else knows MPI.
$(BUILD)/luapool-mpi.so: $(wildcard runtime/mpi/*.[ch]) runtime/cluster/engine.h
	@command -v $(MPICC) >/dev/null 2>&1 || { echo "make MPI=1: no $(MPICC) here: sh scripts/install-dependencies mpi"; exit 1; }
	$(QUIET) mkdir -p $(@D); $(MPICC) -D_GNU_SOURCE -Iruntime -std=c11 -O2 -g -fPIC -fvisibility=hidden $(WARNINGS) $(STRICT) -shared -o $@ $(filter %.c,$^)

# ---- the same with named fault points, for tests alone: what has none is the same object --------
$(FAULTY)/%.o: %.c Makefile
	$(COMPILE) -DLUAPOOL_FAULTS -MMD -MP -c -o $@ $<

# A header never includes base/fault.h (checked by `make check`), so these files say themselves whether they have fault points.
WITH_FAULTS := $(shell grep -l '"base/fault.h"' $(LIBRARY) $(COMMAND))
FAULTY_OBJ = $(foreach object,$(1),$(if $(filter $(object:$(BUILD)/%.o=%.c),$(WITH_FAULTS)),$(object:$(BUILD)/%=$(FAULTY)/%),$(object)))

$(FAULTY)/luapool: $(call FAULTY_OBJ,$(CMD_OBJ) $(LIB_OBJ))
	$(LINK_COMMAND)

$(FAULTY)/libluapool.a: $(call FAULTY_OBJ,$(LIB_OBJ))
	@rm -f $@
	$(QUIET)$(AR) rcs $@ $^

faults: $(FAULTY)/luapool ## the command with fault points, as $(BUILD)/faults/luapool

# ---- tests ---------------------------------------------------------------------------------------
$(BUILD)/tests/proc.so: tests/c/proc.c
	$(COMPILE) -fno-sanitize=all -fvisibility=default -shared -o $@ $<

# Modules that show a room to the Lua tests: test_*.c are programs, all the others are these.
$(BUILD)/tests/%.so: tests/c/%.c $(BUILD)/libluapool.a
	$(COMPILE) $(LDFLAGS) -fvisibility=default -MMD -MP -MF $@.d -shared -o $@ $< $(BUILD)/libluapool.a

# A room of the command is not in the library: its test brings it along.
$(BUILD)/tests/test_scratch: BESIDE = runtime/command/scratch.c
$(BUILD)/tests/test_scratch: runtime/command/scratch.c

$(BUILD)/tests/test_%: tests/c/test_%.c $(FAULTY)/libluapool.a
	$(COMPILE) -DLUAPOOL_FAULTS $(LDFLAGS) -fvisibility=default -MMD -MP -MF $@.d -o $@ $< $(BESIDE) $(FAULTY)/libluapool.a -lcmocka $(LUA_SHARED) -lm -ldl -lpthread

# Programs that have luapool inside, for tests/test_start.lua and tests/test_embed.lua.
HOST_LINK = $(LDFLAGS) -Wl,-E -MMD -MP -MF $@.d -o $@ $< $(BUILD)/libluapool.a $(LUA_LINK) -lm -ldl -lpthread
$(BUILD)/tests/hosts/%: tests/hosts/%.c $(BUILD)/libluapool.a
	$(COMPILE) $(HOST_LINK)

$(BUILD)/scripts/embed/%: scripts/embed/%.c $(BUILD)/libluapool.a
	$(COMPILE) $(HOST_LINK)

$(BUILD)/tests/hosts/%: tests/hosts/%.cpp $(BUILD)/libluapool.a
	$(QUIET) mkdir -p $(@D); $(CXX) $(CPPFLAGS) $(CXXFLAGS) $(HOST_LINK)

$(BUILD)/scripts/embed/%: scripts/embed/%.cpp $(BUILD)/libluapool.a
	$(QUIET) mkdir -p $(@D); $(CXX) $(CPPFLAGS) $(CXXFLAGS) -std=c++17 $(HOST_LINK)

# The same program around the amalgamation: one file, which -O2 would keep a processor busy with for as long as half of the library.
$(BUILD)/tests/hosts/amalgamated: tests/hosts/engine.c $(BUILD)/amalgamation/luapool.c
	$(QUIET) mkdir -p $(@D); $(CC) -std=c11 -D_GNU_SOURCE $(OPTIMIZE:-O2=-O1) -fexceptions -fvisibility=hidden $(LUA_CFLAGS) -I$(BUILD)/amalgamation $(LDFLAGS) -Wl,-E -o $@ $^ $(LUA_LINK) -lm -ldl -lpthread

test-programs: $(TEST_BIN) $(BUILD)/tests/hosts/amalgamated

# The engine for many machines is tested where it can be built.
TEST_MPI  := $(if $(shell command -v $(MPICC) 2>/dev/null),$(BUILD)/luapool-mpi.so)

# The small library, for tests/test_small.lua, if that is to run.
TEST_SMALL = $(and $(filter build,$(notdir $(BUILD))),$(or $(if $(TESTS),,all),$(filter small,$(TESTS))))

# (First what takes longest to compile.)
run-tests: $(BUILD)/tests/hosts/amalgamated all faults test-programs $(TEST_MPI)
	@$(if $(TEST_SMALL),$(MAKE) -s --no-print-directory SMALL=1 BUILD=$(BUILD)/small all $(BUILD)/small/size/engine $(BUILD)/small/size/without)
	@BUILD=$(BUILD) CC="$(CC)" JOBS=$(JOBS) $(LUA) tests/run.lua $(TESTS)

# Make reads its settings again once everything is installed.
demo: ## install what is missing, build, run the main job on real input
	@sh scripts/install-dependencies demo
	@$(MAKE) --no-print-directory all
	@BUILD=$(BUILD) sh scripts/demo

test: ## install what is missing, build, run every test (TESTS="codec -p pattern": some)
	@sh scripts/install-dependencies test
	@sh scripts/install-dependencies mpi || echo "no Open MPI can be had here: the tests of many machines are skipped (and counted)"
	@$(MAKE) --no-print-directory -j$(JOBS) run-tests

rig: ## many machines, as three hosts in network namespaces (needs ip, unshare, Open MPI; as root, or where namespaces are allowed)
	@$(MAKE) --no-print-directory TESTS="mpi_loss -p Rig" run-tests

# Another MPI: its engine, and the tests with its launcher.
OTHER_MPI ?= mpich
nightly: ## many machines again, for longer: a Slurm of three nodes (as root), random losses, and the same with MPICH
	@sh scripts/install-dependencies nightly || echo "what is missing is skipped (and counted)"
	@SLURM_RIG=1 MPI_LONG=1 FILE_SECONDS=1200 $(MAKE) --no-print-directory TESTS="mpi mpi_loss slurm" run-tests
	@! command -v mpicc.$(OTHER_MPI) >/dev/null || { \
	  $(MAKE) --no-print-directory BUILD=$(BUILD)/$(OTHER_MPI) MPICC=mpicc.$(OTHER_MPI) $(BUILD)/$(OTHER_MPI)/luapool-mpi.so && \
	  MPIEXEC=mpiexec.$(OTHER_MPI) LUAPOOL_ENGINE=$(abspath $(BUILD))/$(OTHER_MPI)/luapool-mpi.so FILE_SECONDS=1200 $(MAKE) --no-print-directory TESTS="mpi mpi_loss" run-tests; }

simulate: all ## many machines: simulated clusters of one to ten thousand nodes, as a table and the plot of README (some minutes)
	@LUA_PATH="tests/?.lua;;" $(BUILD)/luapool tests/sim/sweep.lua $(if $(SIMULATE),$(SIMULATE),tests/sim/efficiency.svg)

soak: ## signals and deaths at random moments, thousands of them, and long streams (about a quarter of an hour)
	@SOAK=1 FILE_SECONDS=1200 $(MAKE) --no-print-directory TESTS="signals crash errors stream combinations" run-tests

check: ## layer rules, luacheck, and no warning from gcc and from clang
	@sh scripts/install-dependencies test
	@$(MAKE) --no-print-directory objects
	@$(LUA) scripts/check-layers.lua $(BUILD)
	luacheck -q lua scripts tests
	@for compiler in gcc clang; do \
	  command -v $$compiler >/dev/null 2>&1 || { echo "no $$compiler here: its warnings are not checked"; continue; }; \
	  $(MAKE) --no-print-directory BUILD=$(BUILD)/check-$$compiler CC=$$compiler STRICT=-Werror objects test-programs || exit 1; done

# What a program grows by that links the library: the engine of the tests, and the same with nothing where the library's functions were.
SIZE_LINK = $(CC) $(LDFLAGS) -Wl,-E,-s -o $@
$(BUILD)/size/engine: tests/hosts/engine.c $(BUILD)/libluapool.a
	$(COMPILE) $(SIZE_LINK:$(CC)%=%) $< $(BUILD)/libluapool.a $(LUA_LINK) -lm -ldl -lpthread

$(BUILD)/size/without: tests/hosts/engine.c
	$(COMPILE) $(SIZE_LINK:$(CC)%=%) $< -Wl,--unresolved-symbols=ignore-all $(LUA_LINK) -lm -ldl -lpthread

size: all $(BUILD)/size/engine $(BUILD)/size/without ## what the library adds to a program, in bytes
	@size $(BUILD)/libluapool.so.0 $(BUILD)/lua/luapool.so $(if $(SMALL),,$(BUILD)/luapool) $(BUILD)/size/engine $(BUILD)/size/without
	@size $(BUILD)/size/without $(BUILD)/size/engine | awk 'NR == 2 { text = $$1; data = $$2 } NR == 3 { printf "a program that links libluapool.a grows by %d bytes of code and constants, %d of data\n", $$1 - text, $$2 - data }'
	@$(if $(SMALL),,size -t $(BUILD)/embedded.o | awk 'NR == 2 { printf "of these the Lua files: %d (%s)\n"$(,) $$1$(,) "$(words $(LUA_LIBRARY)) files, packed" }')

bench: all $(BUILD)/tests/proc.so $(BUILD)/tests/hosts/figures ## measure the promises of speed, beside other ways to do the same (BENCH: some)
	@BUILD=$(BUILD) $(BUILD)/luapool tests/bench/run.lua $(BENCH)

# Sanitizers and valgrind: the suite again. Everything is slower there, and so may the tests be.
portable: ## every test with the paths for systems without pidfd, eventfd, memfd, shm_open, futex, prctl, close_range and affinity
	@CPPFLAGS="-DLUAPOOL_NO_PIDFD -DLUAPOOL_NO_EVENTFD -DLUAPOOL_NO_MEMFD -DLUAPOOL_NO_SHM -DLUAPOOL_NO_PRCTL -DLUAPOOL_NO_FUTEX -DLUAPOOL_NO_CLOSE_RANGE -DLUAPOOL_NO_AFFINITY" \
	  POOLTEST_PORTABLE=1 $(MAKE) --no-print-directory BUILD=$(BUILD)/portable JOBS=1 run-tests

abi: ## the Lua tests for musl, 32 bits and big-endian (LUA_SOURCE names a folder with Lua's sources)
	@for name in musl m32 s390x; do sh scripts/test-abi $$name $(TESTS) || exit 1; done

systems: $(BUILD)/embedded.c $(BUILD)/embedded_command.c ## does it compile for macOS, FreeBSD, NetBSD, OpenBSD? (HEADERS names a folder with their headers; SYSTEM: one)
	@BUILD=$(BUILD) HEADERS="$(HEADERS)" LUA_CFLAGS="$(LUA_CFLAGS)" sh scripts/check-systems $(SYSTEM)

asan: ## every test under AddressSanitizer and UndefinedBehaviorSanitizer
	@ASAN_OPTIONS=$$ASAN_OPTIONS:verify_asan_link_order=0:allocator_may_return_null=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 POOLTEST_SLOWNESS=4 \
	  $(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/asan SANITIZE=address,undefined OPTIMIZE="-O1 -g" run-tests

ubsan: ## every test under UndefinedBehaviorSanitizer
	@UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 POOLTEST_SLOWNESS=2 \
	  $(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/ubsan SANITIZE=undefined OPTIMIZE="-O1 -g" run-tests

tsan: ## the tests that have threads under ThreadSanitizer
	@TSAN_OPTIONS=halt_on_error=1:allocator_may_return_null=1 POOLTEST_SLOWNESS=8 \
	  $(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/tsan SANITIZE=thread OPTIMIZE="-O1 -g" TESTS="$(or $(TESTS),$(TSAN_TESTS))" run-tests

valgrind: ## the unit tests and the heart of the suite under valgrind
	@POOLTEST_SLOWNESS=30 FILE_SECONDS=$${FILE_SECONDS:-30} WRAPPER="valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite" \
	  CPPFLAGS=-DLUAPOOL_MALLOC $(MAKE) --no-print-directory -j$(JOBS) BUILD=$(BUILD)/valgrind OPTIMIZE="-O1 -g" TESTS="$(or $(TESTS),$(VALGRIND_TESTS))" run-tests

# ---- installing and packing ------------------------------------------------------------------------
# (Without the command where the library is small: its helper is the program that it is in.)
OF_COMMAND = \
  $(BUILD)/luapool:$(BINDIR)/luapool:755 \
  scripts/man/luapool.1:$(MANDIR)/man1/luapool.1:644 \
  scripts/completion/luapool.bash:$(DATADIR)/bash-completion/completions/luapool:644 \
  scripts/completion/_luapool:$(DATADIR)/zsh/site-functions/_luapool:644 \
  scripts/completion/luapool.fish:$(DATADIR)/fish/vendor_completions.d/luapool.fish:644

# From, to, mode. `make install DESTDIR=... PREFIX=...`; each directory can be set by itself.
INSTALLED = $(if $(SMALL),,$(OF_COMMAND)) \
  $(BUILD)/lua/luapool.so:$(CMODDIR)/luapool.so:755 \
  $(BUILD)/libluapool.a:$(LIBDIR)/libluapool.a:644 \
  $(BUILD)/libluapool.so.0:$(LIBDIR)/libluapool.so.0:755 \
  $(BUILD)/luapool.pc:$(LIBDIR)/pkgconfig/luapool.pc:644 \
  runtime/luapool.h:$(INCLUDEDIR)/luapool.h:644 \
  $(if $(MPI),$(BUILD)/luapool-mpi.so:$(LIBDIR)/luapool/luapool-mpi.so:755)

install: all $(BUILD)/luapool.pc ## copy everything below PREFIX (and DESTDIR); BINDIR, LIBDIR, CMODDIR ... can be set
	@set -e; for entry in $(INSTALLED); do \
	  from=$${entry%%:*}; rest=$${entry#*:}; to=$${rest%:*}; \
	  echo "  install $(DESTDIR)$$to"; install -D -m $${entry##*:} "$$from" "$(DESTDIR)$$to"; done
	@ln -sf libluapool.so.0 $(DESTDIR)$(LIBDIR)/libluapool.so

# What a tree of rocks takes: the command and the module (the rest belongs to the system's package manager).
install-rock: all
	install -D -m 755 $(BUILD)/luapool $(BINDIR)/luapool
	install -D -m 755 $(BUILD)/lua/luapool.so $(CMODDIR)/luapool.so

uninstall: ## remove what install copied
	@for entry in $(INSTALLED); do rest=$${entry#*:}; rm -f "$(DESTDIR)$${rest%:*}"; done; rm -f $(DESTDIR)$(LIBDIR)/libluapool.so $(DESTDIR)$(LIBDIR)/luapool/luapool-mpi.so

dist: ## the sources as build/luapool-VERSION.tar.gz
	@mkdir -p $(BUILD)
	git archive --format=tar --prefix=luapool-$(VERSION)/ HEAD | gzip -9n > $(BUILD)/luapool-$(VERSION).tar.gz

packages: ## the tests of what is installed, with the Debian packages
	@PACKAGES=1 FILE_SECONDS=600 $(MAKE) --no-print-directory TESTS=package test

# As dh-lua names it: the module is a library with a version.
$(BUILD)/liblua5.4-luapool.so.0: $(LIB_OBJ)
	$(QUIET) $(CC) $(LDFLAGS) -shared -Wl,-soname,liblua5.4-luapool.so.0 -Wl,-z,relro -o $@ $^ -lm -ldl -lpthread

deb: ## Debian packages, in build/debian/deb: luapool, lua-luapool, lua-luapool-dev (DEBFULLNAME and DEBEMAIL say who makes them)
	@$(MAKE) --no-print-directory BUILD=$(BUILD)/debian PREFIX=/usr debian-files
	@BUILD=$(BUILD)/debian CC="$(CC)" sh scripts/make-deb $(VERSION)-1

debian-files: all $(BUILD)/liblua5.4-luapool.so.0

clean: ## remove the build directory
	rm -rf $(BUILD)

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

-include $(shell find $(BUILD) -name '*.d' -type f 2>/dev/null)
