/* A libnvidia-ml.so.1 with the real ABI and no GPU behind it. Its GPUs follow a script, the device file.
 *
 * Environment
 *   NVML_STAND_IN        path of the device file. Without it nvmlInit answers "library not found".
 *   NVML_STAND_IN_CLOCK  path of a file of one double (native byte order): the virtual time in seconds. It is mapped,
 *                        so that whoever writes it moves time in every process. Without it time is CLOCK_MONOTONIC,
 *                        which on Linux is Python's time.monotonic().
 *
 * The device file
 *   One statement a line, # begins a comment:      [@SECONDS] [gpu N] STATEMENT
 *   A statement holds from the time given on (from the beginning, without one), for GPU N or for all of them.
 *   The file is looked at on each call: append complete lines, or replace it (rename); do not edit it in place.
 *   Times need not be in order. What a process sets through NVML (clocks, power limit) is appended to the file at the
 *   time of the call: other processes see it, as they would on a real card, and a test can read what was set.
 *
 * Statements (numbers in the unit named; in brackets what holds without one)
 *   count N                    GPUs (1). For the whole file, whatever its time.
 *   like a100|h100|ada|volta|pascal
 *                              name, architecture, and all sensor periods of such a card (a100):
 *                                a100, h100  power and instant power average 25 of every 100 ms; counter every 20 ms
 *                                ada         power averages 1 s, every 100 ms; instant power 100 ms; counter 100 ms
 *                                volta       power averages 20 of every 20 ms; no instant power; counter 20 ms
 *                                pascal      as volta, without a counter
 *   name TEXT                  capability MAJOR MINOR        architecture NVML_DEVICE_ARCH_*
 *   load W [LOW PERIOD DUTY]   draws W watts; with the rest: W for DUTY of each PERIOD seconds, counted from the
 *                              statement's time, and LOW watts in between (60)
 *   idle W                     the part of the load that does not follow the clock (60)
 *   clock_exponent E           (load - idle) is multiplied by (SM clock / highest SM clock)^E (0: it is not)
 *   power UPDATE AVERAGE [PHASE]    milliseconds: nvmlDeviceGetPowerUsage steps every UPDATE, at PHASE past whole
 *                              multiples of it, to the mean over the last AVERAGE (100 25 0)
 *   instant UPDATE AVERAGE [PHASE]  the same of NVML_FI_DEV_POWER_INSTANT; UPDATE 0: not supported
 *   average UPDATE AVERAGE [PHASE]  the same of NVML_FI_DEV_POWER_AVERAGE (100 1000 0)
 *   energy UPDATE [PHASE]      the counter steps every UPDATE milliseconds; 0: not supported (20 0)
 *   power_gain G / energy_gain G    readings (but instant power) and counter are off by this factor (1)
 *   power_noise W              readings scatter by up to +-W watts, each update by its own amount (0)
 *   energy_start MJ            the counter's value at time 0 in millijoules (2^40)
 *   energy_back J              the counter goes backwards by so many joules
 *   stuck SENSOR / unstuck SENSOR   power, instant, average or energy stands still
 *   temperature C              (45)
 *   clock MHZ                  SM clock, where it is not locked lower (highest supported); memory_clock MHZ (1593)
 *   clocks MHZ...              supported graphics clocks, at most 128 (1410, 1395, ... 210)
 *   throttle MASK              NVML's clock event reasons (0); a load above the power limit sets bit 2 by itself
 *   utilization GPU MEMORY     percent (100 while the load is above idle, else 0; and a third of that)
 *   power_limit W [LOWEST HIGHEST]  (400 100 400); what is drawn never exceeds it. A statement at 0 is the default
 *   lock MIN MAX / unlock      graphics clocks as nvmlDeviceSetGpuLockedClocks sets and nvmlDeviceReset... frees them
 *   error FUNCTION CODE        calls of FUNCTION return CODE: a number, or ok, unsupported, permission, lost, unknown,
 *                              driver, mismatch, timeout. FUNCTION: init count handle name driver capability
 *                              architecture uuid memory power instant average energy temperature clock clocks throttle
 *                              utilization limit set_limit lock (set and reset), or all (every one with a device)
 *   call_ms MS [FUNCTION]      how long a call lasts (0); half of that passes before the value is taken. Virtual time
 *                              is moved by it, in real time the call sleeps
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    INSUFFICIENT_SIZE = 7,
    LIBRARY_NOT_FOUND = 12,
};
enum { GPUS = 8, WORDS = 16, CLOCKS = 128, NAME = 96 };
#define HANDLE 0x7f0000001000ull /* beyond 32 bits: a truncated handle would show */

typedef struct {
    double at;
    int gpu, words;
    char word[WORDS][24];
    char text[NAME]; /* the line from its second word on */
    double value[WORDS];
} Statement;

typedef struct { /* of the load: watts from a moment on */
    double start, origin, high, low, period, duty, before_j;
} Segment;

typedef struct {
    double update_s, average_s, phase_s;
} Sensor;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int sessions;
typedef struct { /* in order of time */
    Statement *item;
    size_t used, room;
} Script;
static Script script, loads; /* statements `load` are many, and apart */
static struct {
    Segment *item;
    size_t used, room;
} segments[GPUS];
static struct stat seen;
static long offset;
static double newest;
static int stale, kept = -1;

/* Time */

static volatile double *virtual_clock(void) {
    static volatile double *mapped;
    static char path[4096];
    const char *wanted = getenv("NVML_STAND_IN_CLOCK");
    int file;
    if (!wanted) return NULL;
    if (mapped && !strcmp(path, wanted)) return mapped;
    file = open(wanted, O_RDWR);
    if (file < 0) return NULL;
    mapped = mmap(NULL, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    snprintf(path, sizeof path, "%s", wanted);
    return mapped == MAP_FAILED ? mapped = NULL : mapped;
}

static double now_s(void) {
    volatile double *shared = virtual_clock();
    struct timespec t;
    if (shared) return *shared;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void pass(double seconds) {
    volatile double *shared = virtual_clock();
    struct timespec t = {(time_t)seconds, (long)(fmod(seconds, 1.0) * 1e9)};
    if (seconds <= 0) return;
    if (shared) *shared += seconds;
    else nanosleep(&t, NULL);
}

/* The script */

static void append_statement(char *line) {
    Statement s = {.at = 0, .gpu = -1};
    char *rest, *word, *save = NULL, *comment = strchr(line, '#');
    size_t place;
    Script *into;
    if (comment) *comment = 0;
    line += strspn(line, " \t");
    if (*line == '@') s.at = strtod(line + 1, &line), line += strspn(line, " \t");
    if (!strncmp(line, "gpu ", 4)) s.gpu = (int)strtol(line + 4, &line, 10), line += strspn(line, " \t");
    if (!*line) return;
    rest = line + strcspn(line, " \t");
    snprintf(s.text, NAME, "%s", rest + strspn(rest, " \t"));
    for (word = strtok_r(line, " \t", &save); word && s.words < WORDS; word = strtok_r(NULL, " \t", &save)) {
        snprintf(s.word[s.words], sizeof s.word[0], "%s", word);
        s.value[s.words++] = strtod(word, NULL);
    }
    into = strcmp(s.word[0], "load") ? &script : &loads;
    if (into->used == into->room) {
        into->room = into->room ? 2 * into->room : 64;
        into->item = realloc(into->item, into->room * sizeof s);
        if (!into->item) abort();
    }
    for (place = into->used; place > 0 && into->item[place - 1].at > s.at; place--) continue;
    memmove(into->item + place + 1, into->item + place, (into->used - place) * sizeof s);
    into->item[place] = s;
    into->used++;
    if (s.at < newest) stale = 1; /* the load's history changes */
    newest = fmax(newest, s.at);
}

static const Statement *latest(int gpu, const char *name, double t) {
    const Script *in = strcmp(name, "load") ? &script : &loads;
    for (size_t i = in->used; i-- > 0;) {
        const Statement *s = in->item + i;
        if (s->at <= t && (s->gpu < 0 || s->gpu == gpu) && !strcmp(s->word[0], name)) return s;
    }
    return NULL;
}

static double number(int gpu, const char *name, double t, double otherwise) {
    const Statement *s = latest(gpu, name, t);
    return s ? s->value[1] : otherwise;
}

/* The load */

static double segment_j(const Segment *s, double t) {
    double since = t - s->origin, whole, part;
    if (s->period <= 0) return s->high * since;
    whole = floor(since / s->period);
    part = since - whole * s->period;
    return whole * s->period * (s->duty * s->high + (1 - s->duty) * s->low) +
           fmin(part, s->duty * s->period) * s->high + fmax(part - s->duty * s->period, 0) * s->low;
}

static double drawn_j(int gpu, double t) {
    size_t low = 0, high = segments[gpu].used;
    const Segment *s;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (segments[gpu].item[middle].start <= t) low = middle;
        else high = middle;
    }
    s = segments[gpu].item + low;
    return s->before_j + segment_j(s, t) - segment_j(s, s->start);
}

static size_t supported(int gpu, double t, unsigned *clock) {
    const Statement *s = latest(gpu, "clocks", t);
    size_t count = 0;
    char *at = s ? (char *)s->text : NULL, *end;
    if (!s)
        for (unsigned mhz = 1410; mhz >= 210; mhz -= 15) clock[count++] = mhz;
    else
        for (double mhz = strtod(at, &end); end != at && count < CLOCKS; at = end, mhz = strtod(at, &end))
            clock[count++] = (unsigned)mhz;
    return count;
}

static double sm_clock(int gpu, double t, double *highest) {
    unsigned clock[CLOCKS];
    size_t count = supported(gpu, t, clock);
    const Statement *locked = latest(gpu, "lock", t), *freed = latest(gpu, "unlock", t);
    double top = 0, best = 0, wanted;
    for (size_t i = 0; i < count; i++) top = fmax(top, clock[i]);
    if (highest) *highest = top;
    wanted = number(gpu, "clock", t, top);
    if (!locked || (freed && freed > locked)) return wanted;
    wanted = fmin(wanted, locked->value[2]);
    for (size_t i = 0; i < count; i++)
        if (clock[i] <= wanted) best = fmax(best, clock[i]);
    return best > 0 ? best : wanted;
}

static void add_segment(int gpu, double at) {
    const Statement *load = latest(gpu, "load", at);
    double highest, clock = sm_clock(gpu, at, &highest), idle = number(gpu, "idle", at, 60);
    double factor = pow(clock / highest, number(gpu, "clock_exponent", at, 0));
    double limit = number(gpu, "power_limit", at, 400), high = load ? load->value[1] : 60, low = high;
    Segment s = {.start = at, .origin = load ? load->at : 0};
    if (load && load->words > 4) low = load->value[2], s.period = load->value[3], s.duty = load->value[4];
    s.high = fmin(idle + (high - idle) * (high > idle ? factor : 1), limit);
    s.low = fmin(idle + (low - idle) * (low > idle ? factor : 1), limit);
    if (segments[gpu].used) {
        const Segment *last = segments[gpu].item + segments[gpu].used - 1;
        s.before_j = last->before_j + segment_j(last, at) - segment_j(last, last->start);
        if (last->start == at) s.before_j = last->before_j, segments[gpu].used--;
    }
    if (segments[gpu].used == segments[gpu].room) {
        segments[gpu].room = segments[gpu].room ? 2 * segments[gpu].room : 64;
        segments[gpu].item = realloc(segments[gpu].item, segments[gpu].room * sizeof s);
        if (!segments[gpu].item) abort();
    }
    segments[gpu].item[segments[gpu].used++] = s;
}

static int moves_load(const Statement *s) {
    static const char *names[] = {"load", "idle", "clock", "clocks", "clock_exponent", "lock", "unlock", "power_limit"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(s->word[0], names[i])) return 1;
    return 0;
}

static void add_segments(size_t i, size_t j) { /* from these statements on */
    while (i < script.used || j < loads.used) {
        int other = j == loads.used || (i < script.used && script.item[i].at <= loads.item[j].at);
        const Statement *s = other ? script.item + i++ : loads.item + j++;
        for (int gpu = 0; gpu < GPUS && moves_load(s); gpu++)
            if (s->gpu < 0 || s->gpu == gpu) add_segment(gpu, s->at);
    }
}

static void refresh(void) {
    const char *path = getenv("NVML_STAND_IN");
    FILE *file = path ? fopen(path, "r") : NULL;
    struct stat found;
    char line[1024];
    size_t from = script.used, loads_from = loads.used;
    if (!file) return;
    if (fstat(fileno(file), &found) || (found.st_ino == seen.st_ino && found.st_size == offset)) {
        fclose(file);
        return;
    }
    if (found.st_ino != seen.st_ino || found.st_size < offset)
        offset = 0, newest = 0, script.used = loads.used = 0, stale = 1;
    fseek(file, offset, SEEK_SET);
    while (fgets(line, sizeof line, file) && strchr(line, '\n')) {
        line[strcspn(line, "\n")] = 0;
        append_statement(line);
        offset = ftell(file);
    }
    if (kept >= 0) close(kept);
    kept = dup(fileno(file)); /* held open, so that a file that takes its place is never given its number */
    fclose(file);
    seen = found;
    if (stale) {
        from = loads_from = 0;
        for (int gpu = 0; gpu < GPUS; gpu++) segments[gpu].used = 0, add_segment(gpu, 0);
    }
    stale = 0;
    add_segments(from, loads_from);
}

static void record(int gpu, const char *statement) {
    FILE *file = fopen(getenv("NVML_STAND_IN"), "a");
    if (!file) return;
    fprintf(file, "@%.9f gpu %d %s\n", now_s(), gpu, statement);
    fclose(file);
}

/* Calls: enter() holds the lock until leave() */

static nvmlReturn_t code_of(const Statement *s) {
    static const struct {
        const char *word;
        int code;
    } names[] = {{"ok", 0},    {"unsupported", 3}, {"permission", 4}, {"lost", 15},
                 {"driver", 9}, {"timeout", 10},   {"mismatch", 18},  {"unknown", 999}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(s->word[2], names[i].word)) return names[i].code;
    return (nvmlReturn_t)s->value[2];
}

static nvmlReturn_t scripted_error(int gpu, const char *function, double t, int with_device) {
    for (size_t i = script.used; i-- > 0;) {
        const Statement *s = script.item + i;
        if (s->at > t || strcmp(s->word[0], "error") || (s->gpu >= 0 && s->gpu != gpu)) continue;
        if (!strcmp(s->word[1], function) || (with_device && !strcmp(s->word[1], "all"))) return code_of(s);
    }
    return SUCCESS;
}

static double call_s(int gpu, const char *function, double t) {
    for (size_t i = script.used; i-- > 0;) {
        const Statement *s = script.item + i;
        if (s->at > t || strcmp(s->word[0], "call_ms") || (s->gpu >= 0 && s->gpu != gpu)) continue;
        if (s->words < 3 || !strcmp(s->word[2], function)) return s->value[1] * 1e-3;
    }
    return 0;
}

typedef struct {
    int gpu;
    double t, wait_s;
    nvmlReturn_t code;
} Call;

static Call enter(nvmlDevice_t device, const char *function) {
    size_t number_of_gpu = (size_t)device - HANDLE;
    Call call = {.gpu = number_of_gpu < GPUS ? (int)number_of_gpu : -1};
    pthread_mutex_lock(&lock);
    refresh();
    call.wait_s = call_s(call.gpu, function, now_s()) / 2;
    pthread_mutex_unlock(&lock);
    pass(call.wait_s);
    pthread_mutex_lock(&lock);
    refresh();
    call.t = now_s();
    call.code = !sessions ? UNINITIALIZED : call.gpu < 0 ? INVALID_ARGUMENT : SUCCESS;
    if (!call.code) call.code = scripted_error(call.gpu, function, call.t, 1);
    return call;
}

static nvmlReturn_t leave(const Call *call) {
    pthread_mutex_unlock(&lock);
    pass(call->wait_s);
    return call->code;
}

static nvmlReturn_t text(char *out, unsigned length, const char *value) {
    if (length <= strlen(value)) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

/* Sensors */

typedef struct {
    const char *like, *name;
    int architecture, major, minor;
    Sensor power, instant;
    double energy_s;
} Card;

static const Card *card(int gpu, double t) {
    static const Card cards[] = {
        {"a100", "NVIDIA A100-SXM4-80GB", 7, 8, 0, {.1, .025, 0}, {.1, .025, 0}, .02},
        {"h100", "NVIDIA H100 80GB HBM3", 9, 9, 0, {.1, .025, 0}, {.1, .025, 0}, .02},
        {"ada", "NVIDIA L40S", 8, 8, 9, {.1, 1, 0}, {.1, .1, 0}, .1},
        {"volta", "Tesla V100-SXM2-16GB", 5, 7, 0, {.02, .02, 0}, {0, 0, 0}, .02},
        {"pascal", "Tesla P40", 4, 6, 1, {.02, .02, 0}, {0, 0, 0}, 0},
    };
    const Statement *s = latest(gpu, "like", t);
    for (size_t i = 0; s && i < sizeof cards / sizeof *cards; i++)
        if (!strcmp(s->word[1], cards[i].like)) return cards + i;
    return cards;
}

static Sensor sensor(int gpu, const char *name, double t) {
    static const Sensor slow = {.1, 1, 0};
    const Statement *s = latest(gpu, name, t);
    const Card *like = card(gpu, t);
    Sensor energy = {like->energy_s, 0, 0};
    if (!strcmp(name, "energy")) {
        if (s) energy.update_s = s->value[1] * 1e-3, energy.phase_s = s->words > 2 ? s->value[2] * 1e-3 : 0;
        return energy;
    }
    if (s) return (Sensor){s->value[1] * 1e-3, s->value[2] * 1e-3, s->words > 3 ? s->value[3] * 1e-3 : 0};
    return !strcmp(name, "power") ? like->power : !strcmp(name, "instant") ? like->instant : slow;
}

static double unless_stuck(int gpu, const char *name, double t) {
    for (size_t i = script.used; i-- > 0;) {
        const Statement *s = script.item + i;
        if (s->at > t || (s->gpu >= 0 && s->gpu != gpu) || strcmp(s->word[1], name)) continue;
        if (!strcmp(s->word[0], "unstuck")) return t;
        if (!strcmp(s->word[0], "stuck")) return s->at;
    }
    return t;
}

static double noise(double index) { /* in [-1, 1), the same for the same update */
    unsigned long long x = (unsigned long long)(long long)index * 0x9e3779b97f4a7c15ull;
    x ^= x >> 29, x *= 0xbf58476d1ce4e5b9ull, x ^= x >> 32;
    return (double)(x % 2000001) / 1000000 - 1;
}

static nvmlReturn_t power_mw(const Call *call, const char *name, unsigned *milliwatts) {
    double t = unless_stuck(call->gpu, name, call->t), index, watts;
    Sensor s = sensor(call->gpu, name, t);
    if (s.update_s <= 0) return NOT_SUPPORTED;
    index = floor((t - s.phase_s) / s.update_s);
    t = s.phase_s + index * s.update_s;
    watts = (drawn_j(call->gpu, t) - drawn_j(call->gpu, t - s.average_s)) / s.average_s;
    if (strcmp(name, "instant")) watts *= number(call->gpu, "power_gain", t, 1);
    watts += noise(index) * number(call->gpu, "power_noise", t, 0);
    *milliwatts = (unsigned)fmax(watts * 1000 + 0.5, 0);
    return SUCCESS;
}

static nvmlReturn_t energy_mj(const Call *call, unsigned long long *millijoules) {
    double t = unless_stuck(call->gpu, "energy", call->t), joules;
    Sensor s = sensor(call->gpu, "energy", t);
    if (s.update_s <= 0) return NOT_SUPPORTED;
    t = s.phase_s + floor((t - s.phase_s) / s.update_s) * s.update_s;
    joules = drawn_j(call->gpu, t) * number(call->gpu, "energy_gain", t, 1);
    for (size_t i = 0; i < script.used; i++) {
        const Statement *b = script.item + i;
        if (b->at <= call->t && (b->gpu < 0 || b->gpu == call->gpu) && !strcmp(b->word[0], "energy_back"))
            joules -= b->value[1];
    }
    *millijoules = (unsigned long long)(number(call->gpu, "energy_start", t, 1099511627776.0) + joules * 1000);
    return SUCCESS;
}

/* NVML: the library */

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    nvmlReturn_t code;
    (void)flags;
    if (!getenv("NVML_STAND_IN")) return LIBRARY_NOT_FOUND;
    pthread_mutex_lock(&lock);
    refresh();
    code = scripted_error(-1, "init", now_s(), 0);
    if (code == SUCCESS) sessions++;
    pthread_mutex_unlock(&lock);
    return code;
}

nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

nvmlReturn_t nvmlShutdown(void) {
    if (!sessions) return UNINITIALIZED;
    sessions--;
    return SUCCESS;
}

/* Not in NVML: how many sessions are open, for the test that each one is closed. */
int standInSessions(void) { return sessions; }

const char *nvmlErrorString(nvmlReturn_t code) {
    static _Thread_local char message[32];
    snprintf(message, sizeof message, "code %d", code);
    return message;
}

static nvmlReturn_t library_text(const char *function, char *out, unsigned length, const char *value) {
    nvmlReturn_t code;
    if (!sessions) return UNINITIALIZED;
    pthread_mutex_lock(&lock);
    refresh();
    code = scripted_error(-1, function, now_s(), 0);
    pthread_mutex_unlock(&lock);
    return code ? code : text(out, length, value);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return library_text("driver", version, length, "570.1");
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    nvmlReturn_t code;
    if (!sessions) return UNINITIALIZED;
    pthread_mutex_lock(&lock);
    refresh();
    code = scripted_error(-1, "count", now_s(), 0);
    *count = (unsigned)number(-1, "count", INFINITY, 1);
    pthread_mutex_unlock(&lock);
    return code;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    unsigned count;
    nvmlReturn_t code = nvmlDeviceGetCount_v2(&count);
    if (code) return code;
    if (index >= count || index >= GPUS) return INVALID_ARGUMENT;
    pthread_mutex_lock(&lock);
    code = scripted_error((int)index, "handle", now_s(), 1);
    pthread_mutex_unlock(&lock);
    *device = (nvmlDevice_t)(size_t)(HANDLE + index);
    return code;
}

/* NVML: what a device is */

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    Call call = enter(device, "name");
    if (!call.code) {
        const Statement *s = latest(call.gpu, "name", call.t);
        call.code = text(name, length, s ? s->text : card(call.gpu, call.t)->name);
    }
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length) {
    Call call = enter(device, "uuid");
    char value[48];
    snprintf(value, sizeof value, "GPU-57a2d1b0-0000-0000-0000-%012d", call.gpu);
    if (!call.code) call.code = text(uuid, length, value);
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    Call call = enter(device, "capability");
    if (!call.code) {
        const Statement *s = latest(call.gpu, "capability", call.t);
        *major = s ? (int)s->value[1] : card(call.gpu, call.t)->major;
        *minor = s ? (int)s->value[2] : card(call.gpu, call.t)->minor;
    }
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, unsigned *architecture) {
    Call call = enter(device, "architecture");
    if (!call.code)
        *architecture = (unsigned)number(call.gpu, "architecture", call.t, card(call.gpu, call.t)->architecture);
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, unsigned long long *total_free_used) {
    Call call = enter(device, "memory");
    if (!call.code) {
        total_free_used[0] = 80ull << 30, total_free_used[1] = 79ull << 30, total_free_used[2] = 1ull << 30;
    }
    return leave(&call);
}

/* NVML: power and energy */

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
    Call call = enter(device, "power");
    if (!call.code) call.code = power_mw(&call, "power", milliwatts);
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    Call call = enter(device, "energy");
    if (!call.code) call.code = energy_mj(&call, millijoules);
    return leave(&call);
}

typedef struct {
    unsigned fieldId, scopeId;
    long long timestamp, latencyUsec;
    unsigned valueType;
    nvmlReturn_t nvmlReturn;
    union {
        double dVal;
        unsigned uiVal;
        unsigned long long ullVal;
    } value;
} nvmlFieldValue_t;

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    for (int i = 0; i < count; i++) {
        nvmlFieldValue_t *v = values + i;
        const char *name = v->fieldId == 83 ? "energy" : v->fieldId == 185 ? "average" : "instant";
        Call call = enter(device, name);
        if (call.code == UNINITIALIZED || call.code == INVALID_ARGUMENT) return leave(&call);
        v->timestamp = (long long)(call.t * 1e6);
        v->latencyUsec = (long long)(call.wait_s * 2e6);
        v->nvmlReturn = call.code;
        if (call.code) v->valueType = 1;
        else if (v->fieldId == 83) v->valueType = 3, v->nvmlReturn = energy_mj(&call, &v->value.ullVal);
        else if (v->fieldId == 185 || v->fieldId == 186)
            v->valueType = 1, v->nvmlReturn = power_mw(&call, name, &v->value.uiVal);
        else v->nvmlReturn = NOT_SUPPORTED;
        leave(&call);
    }
    return SUCCESS;
}

/* NVML: power limits */

static nvmlReturn_t limit_mw(nvmlDevice_t device, double at, unsigned *milliwatts) {
    Call call = enter(device, "limit");
    if (!call.code) *milliwatts = (unsigned)(1000 * number(call.gpu, "power_limit", at < 0 ? call.t : at, 400));
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *milliwatts) {
    return limit_mw(device, -1, milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned *milliwatts) {
    return limit_mw(device, -1, milliwatts);
}

nvmlReturn_t nvmlDeviceGetPowerManagementDefaultLimit(nvmlDevice_t device, unsigned *milliwatts) {
    return limit_mw(device, 0, milliwatts);
}

static void limits_w(int gpu, double t, double *lowest, double *highest) {
    *lowest = 100, *highest = 400;
    for (size_t i = script.used; i-- > 0;) {
        const Statement *s = script.item + i;
        if (s->at > t || strcmp(s->word[0], "power_limit") || (s->gpu >= 0 && s->gpu != gpu) || s->words < 4) continue;
        *lowest = s->value[2], *highest = s->value[3];
        return;
    }
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned *lowest, unsigned *highest) {
    Call call = enter(device, "limit");
    double low, high;
    if (!call.code) limits_w(call.gpu, call.t, &low, &high), *lowest = low * 1000, *highest = high * 1000;
    return leave(&call);
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned milliwatts) {
    Call call = enter(device, "set_limit");
    double low, high;
    char statement[64];
    if (!call.code) {
        limits_w(call.gpu, call.t, &low, &high);
        snprintf(statement, sizeof statement, "power_limit %.3f", milliwatts * 1e-3);
        if (milliwatts < low * 1000 || milliwatts > high * 1000) call.code = INVALID_ARGUMENT;
        else record(call.gpu, statement);
    }
    return leave(&call);
}

/* NVML: clocks */

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, int type, unsigned *megahertz) {
    Call call = enter(device, "clock");
    double memory = number(call.gpu, "memory_clock", call.t, 1593);
    if (!call.code) *megahertz = (unsigned)(type == 2 ? memory : sm_clock(call.gpu, call.t, NULL));
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, int type, unsigned *megahertz) {
    Call call = enter(device, "clock");
    double highest, memory = number(call.gpu, "memory_clock", call.t, 1593);
    if (!call.code) sm_clock(call.gpu, call.t, &highest), *megahertz = (unsigned)(type == 2 ? memory : highest);
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, int type, unsigned *megahertz) {
    return nvmlDeviceGetMaxClockInfo(device, type, megahertz); /* NVML_CLOCK_SM is 1, NVML_CLOCK_MEM is 2 */
}

static nvmlReturn_t list_clocks(unsigned *count, unsigned *out, const unsigned *found, size_t length) {
    unsigned room = *count;
    *count = (unsigned)length;
    if (!out || room < length) return INSUFFICIENT_SIZE;
    memcpy(out, found, length * sizeof *out);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned *count, unsigned *megahertz) {
    Call call = enter(device, "clocks");
    unsigned memory = (unsigned)number(call.gpu, "memory_clock", call.t, 1593);
    if (!call.code) call.code = list_clocks(count, megahertz, &memory, 1);
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned memory, unsigned *count,
                                                  unsigned *megahertz) {
    Call call = enter(device, "clocks");
    unsigned found[CLOCKS];
    if (!call.code && memory != (unsigned)number(call.gpu, "memory_clock", call.t, 1593)) call.code = INVALID_ARGUMENT;
    if (!call.code) call.code = list_clocks(count, megahertz, found, supported(call.gpu, call.t, found));
    return leave(&call);
}

nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned lowest, unsigned highest) {
    Call call = enter(device, "lock");
    char statement[64];
    if (!call.code && lowest > highest) call.code = INVALID_ARGUMENT;
    snprintf(statement, sizeof statement, "lock %u %u", lowest, highest);
    if (!call.code) record(call.gpu, statement);
    return leave(&call);
}

nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device) {
    Call call = enter(device, "lock");
    if (!call.code) record(call.gpu, "unlock");
    return leave(&call);
}

static nvmlReturn_t event_reasons(nvmlDevice_t device, unsigned long long *reasons) {
    Call call = enter(device, "throttle");
    const Statement *load = latest(call.gpu, "load", call.t);
    if (!call.code) {
        *reasons = (unsigned long long)number(call.gpu, "throttle", call.t, 0);
        if (load && load->value[1] > number(call.gpu, "power_limit", call.t, 400)) *reasons |= 4;
    }
    return leave(&call);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksEventReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return event_reasons(device, reasons);
}

nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    return event_reasons(device, reasons);
}

/* NVML: temperature and utilisation */

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, int sensor_type, unsigned *celsius) {
    Call call = enter(device, "temperature");
    (void)sensor_type;
    if (!call.code) *celsius = (unsigned)number(call.gpu, "temperature", call.t, 45);
    return leave(&call);
}

typedef struct {
    unsigned gpu, memory;
} nvmlUtilization_t;

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates) {
    Call call = enter(device, "utilization");
    const Statement *s = latest(call.gpu, "utilization", call.t);
    int busy = number(call.gpu, "load", call.t, 60) > number(call.gpu, "idle", call.t, 60);
    if (!call.code) {
        rates->gpu = s ? (unsigned)s->value[1] : busy ? 100 : 0;
        rates->memory = s && s->words > 2 ? (unsigned)s->value[2] : rates->gpu / 3;
    }
    return leave(&call);
}
