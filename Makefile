# luapool: a Lua 5.4 runtime whose programs use every core.
#
#   make            build build/luapool, build/libluapool.a and the module build/lua/luapool.so
#   make demo       install what is missing, build, run the main job on real input
#   make test       install what is missing, build, run every test
#   make help       every target

# ---- settings (make CC=clang, make BUILD=build/asan SANITIZE=address ...) ----------------------
CC        ?= cc
OPTIMIZE  ?= -O2 -g
SANITIZE  ?=
FAULTS    ?=
BUILD     ?= build
PREFIX    ?= /usr/local
LUA_PC    := $(firstword $(foreach p,lua5.4 lua-5.4 lua54 lua,$(shell pkg-config --exists $(p) 2>/dev/null && echo $(p))))
# ---- no need to change anything below this line ------------------------------------------------

WARNINGS  := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror=vla
LUA_CFLAGS = $(shell pkg-config --cflags $(LUA_PC))
LUA_LIBDIR = $(shell pkg-config --variable=libdir $(LUA_PC))
LUA_STATIC = $(firstword $(wildcard $(LUA_LIBDIR)/liblua5.4.a $(LUA_LIBDIR)/liblua-5.4.a $(LUA_LIBDIR)/liblua54.a $(LUA_LIBDIR)/liblua.a))
LUA_LINK   = $(if $(LUA_STATIC),-Wl$(,)--whole-archive $(LUA_STATIC) -Wl$(,)--no-whole-archive,$(shell pkg-config --libs $(LUA_PC)))
,         := ,
CPPFLAGS  += -D_GNU_SOURCE -Iruntime -I$(BUILD) $(LUA_CFLAGS) $(if $(FAULTS),-DLUAPOOL_FAULTS)
CFLAGS    += -std=c11 $(OPTIMIZE) -fPIC -fexceptions -fvisibility=hidden $(WARNINGS) $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-omit-frame-pointer)
LDFLAGS   += $(if $(SANITIZE),-fsanitize=$(SANITIZE))

# The floors, lowest first; a floor calls only floors before it (checked by `make check`).
FLOORS    := base memory process pool job binding
LIBRARY   := $(sort $(wildcard $(FLOORS:%=runtime/%/*.c)))
COMMAND   := $(sort $(wildcard runtime/command/*.c))
LUA_FILES := $(sort $(wildcard lua/luapool/*.lua))
LIB_OBJ   := $(LIBRARY:%.c=$(BUILD)/%.o) $(BUILD)/embedded.o
CMD_OBJ   := $(COMMAND:%.c=$(BUILD)/%.o)

.PHONY: all
all: $(BUILD)/luapool $(BUILD)/lua/luapool.so $(BUILD)/libluapool.a

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/embedded.o: $(BUILD)/embedded.c
	$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<

# The Lua files become C arrays: name, length, text.
$(BUILD)/embedded.c: $(LUA_FILES) scripts/embed-lua
	@mkdir -p $(@D)
	sh scripts/embed-lua $(LUA_FILES) > $@.new && mv $@.new $@

$(BUILD)/libluapool.a: $(LIB_OBJ)
	rm -f $@ && $(AR) rcs $@ $^

# C modules (lpeg, cjson, lfs, socket) find Lua's symbols in the command itself: -Wl,-E.
$(BUILD)/luapool: $(CMD_OBJ) $(LIB_OBJ)
	$(CC) $(LDFLAGS) -Wl,-E -o $@ $^ $(LUA_LINK) -lm -ldl

# The module is not linked to liblua: it uses the Lua of the program that loads it.
$(BUILD)/lua/luapool.so: $(LIB_OBJ)
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -shared -o $@ $^

.PHONY: clean
clean:
	rm -rf $(BUILD)

-include $(LIB_OBJ:.o=.d) $(CMD_OBJ:.o=.d)
