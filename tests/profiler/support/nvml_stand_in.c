/* A libnvidia-ml.so.1 with the real ABI and no GPU behind it. What it answers stands in the file that the environment
 * variable NVML_SCRIPT names, one "key value" a line, read anew on each call:
 *   init CODE            result of nvmlInit
 *   count N              number of GPUs
 *   energy mJ | energy_code CODE
 *   power mW | power_code CODE
 *   rise mJ / power_rise mW   added on each reading
 *   limit_code, clock_code CODE
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int nvmlReturn_t;
typedef struct nvmlDevice_st *nvmlDevice_t;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7 };

static int sessions;
static unsigned long long energy_reads, power_reads;

static unsigned long long script(const char *key, unsigned long long otherwise) {
    const char *path = getenv("NVML_SCRIPT");
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[64];
    unsigned long long value, found = otherwise;
    if (!file) return otherwise;
    while (fscanf(file, "%63s %llu", name, &value) == 2)
        if (!strcmp(name, key)) found = value;
    fclose(file);
    return found;
}

static nvmlReturn_t check(nvmlDevice_t device) {
    if (!sessions) return UNINITIALIZED;
    return device ? SUCCESS : INVALID_ARGUMENT;
}

static nvmlReturn_t text(char *out, unsigned length, const char *value) {
    if (!sessions) return UNINITIALIZED;
    if (length <= strlen(value)) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    nvmlReturn_t code = (nvmlReturn_t)script("init", SUCCESS);
    (void)flags;
    if (code == SUCCESS) sessions++;
    return code;
}

nvmlReturn_t nvmlShutdown(void) {
    if (!sessions) return UNINITIALIZED;
    sessions--;
    return SUCCESS;
}

/* Not in NVML: how many sessions are open, for the test that each one is closed. */
int standInSessions(void) { return sessions; }

const char *nvmlErrorString(nvmlReturn_t code) {
    static char message[32];
    snprintf(message, sizeof message, "code %d", code);
    return message;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    if (!sessions) return UNINITIALIZED;
    *count = (unsigned)script("count", 1);
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    if (!sessions) return UNINITIALIZED;
    if (index >= script("count", 1)) return INVALID_ARGUMENT;
    *device = (nvmlDevice_t)(size_t)(0x7f0000001000ull + index); /* beyond 32 bits: a truncated handle would show */
    return SUCCESS;
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    nvmlReturn_t code = check(device);
    return code ? code : text(name, length, "Stand-in GPU");
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) { return text(version, length, "570.1"); }

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    *major = 8;
    *minor = 0;
    return check(device);
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned *milliwatts) {
    *milliwatts = 400000;
    return script("limit_code", check(device));
}

nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, int type, unsigned *megahertz) {
    *megahertz = type == 1 ? 1410 : 1593; /* NVML_CLOCK_SM is 1, NVML_CLOCK_MEM is 2 */
    return script("clock_code", check(device));
}

nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *millijoules) {
    nvmlReturn_t code = check(device);
    if (code) return code;
    if (((size_t)device >> 32) != 0x7f00) return INVALID_ARGUMENT;
    code = (nvmlReturn_t)script("energy_code", SUCCESS);
    if (!code) *millijoules = script("energy", 1ull << 40) + energy_reads++ * script("rise", 0);
    return code;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned *milliwatts) {
    nvmlReturn_t code = check(device);
    if (code) return code;
    code = (nvmlReturn_t)script("power_code", SUCCESS);
    if (!code) *milliwatts = (unsigned)(script("power", 100000) + power_reads++ * script("power_rise", 0));
    return code;
}
