/* A fake libnvidia-ml.so.1: real symbols for the unmodified nvidia-ml-py, values from a text file.
 *
 * The file named by FAKE_NVML_STATE is read again at every call, so a test changes the GPUs while
 * the program under test runs. One "key value" per line:
 *   count 2                              GPUs that have an NVML index
 *   0.uuid GPU-aa..   0.util 37   0.used 1073741824   0.reserved 5   0.temp 41   0.power 250000
 *   2.uuid MIG-cc..   2.parent 1         a MIG instance of GPU 1 (no index: 2 >= count)
 *   1.mig 1                              GPU 1 is partitioned; its instances are those above
 *   0.sm 1980   0.memclk 2619   0.reasons 4   0.corrected 1   0.uncorrected 0
 *   0.pcie_rx 1024   0.pcie_tx 2048      KiB/s
 *   0.nvlink_rx 5   0.nvlink_tx 6        KiB, ever growing; without them the GPU has no NVLink
 *   fail.nvmlDeviceGetPowerUsage 3       that function returns this error code
 *
 * -DOLD_DRIVER leaves out the symbols that older drivers do not have.
 * Build: cc -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o libnvidia-ml.so.1 fake_nvml.c
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6 };
enum { MAX_GPUS = 8 };

typedef struct { int index; } Gpu; /* a handle is a pointer into this array */
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory_v2;
typedef struct { unsigned version, sensor; int temperature; } Temperature;
typedef struct {
    unsigned field, scope;
    long long time, latency;
    int type, result;
    unsigned long long value;
} FieldValue;

static Gpu gpus[MAX_GPUS] = {{0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}};
static int users; /* nvmlInit calls less nvmlShutdown calls */

static int lookup(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[128], text[128];
    int found = 0;
    while (file && !found && fscanf(file, "%127s %127s", name, text) == 2)
        if (strcmp(name, key) == 0) found = 1, snprintf(value, size, "%s", text);
    if (file) fclose(file);
    return found;
}

static int field(Gpu *gpu, const char *name, char *text, size_t size) {
    char key[128];
    snprintf(key, sizeof key, "%d.%s", gpu->index, name);
    return lookup(key, text, size);
}

static long long value(Gpu *gpu, const char *name) {
    char text[128];
    return field(gpu, name, text, sizeof text) ? atoll(text) : 0;
}

static int failure(const char *function) {
    char key[128], text[128];
    snprintf(key, sizeof key, "fail.%s", function);
    return lookup(key, text, sizeof text) ? atoi(text) : 0;
}

static unsigned count(void) {
    char text[128];
    return lookup("count", text, sizeof text) ? (unsigned)atoi(text) : 0;
}

static int is_mig(Gpu *gpu) {
    char text[128];
    return field(gpu, "parent", text, sizeof text);
}

#define ENTER \
    if (failure(__func__)) return failure(__func__); \
    if (users == 0) return UNINITIALIZED

int nvmlInitWithFlags(unsigned flags) {
    (void)flags, users++;
    return failure(__func__) ? users--, failure(__func__) : OK;
}
int nvmlShutdown(void) { ENTER; users--; return OK; }
const char *nvmlErrorString(int code) { (void)code; return "Fake Error"; }
int nvmlDeviceGetCount_v2(unsigned *gpu_count) { ENTER; *gpu_count = count(); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Gpu **gpu) {
    ENTER;
    if (index >= count() || index >= MAX_GPUS) return INVALID_ARGUMENT;
    *gpu = &gpus[index];
    return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, Gpu **gpu) {
    char text[128];
    ENTER;
    for (int i = 0; i < MAX_GPUS; i++)
        if (field(&gpus[i], "uuid", text, sizeof text) && strcmp(text, uuid) == 0)
            return *gpu = &gpus[i], OK;
    return NOT_FOUND;
}
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Gpu *mig, Gpu **gpu) {
    ENTER;
    if (!is_mig(mig)) return INVALID_ARGUMENT;
    *gpu = &gpus[value(mig, "parent")];
    return OK;
}
int nvmlDeviceGetUUID(Gpu *gpu, char *text, unsigned size) {
    ENTER;
    return field(gpu, "uuid", text, size) ? OK : NOT_SUPPORTED;
}

int nvmlDeviceGetMigMode(Gpu *gpu, unsigned *current, unsigned *pending) {
    ENTER;
    *current = *pending = (unsigned)value(gpu, "mig");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Gpu *gpu, unsigned *most) {
    ENTER;
    *most = value(gpu, "mig") ? 7 : 0;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(Gpu *gpu, unsigned index, Gpu **mig) {
    ENTER;
    for (int i = 0; i < MAX_GPUS; i++)
        if (is_mig(&gpus[i]) && value(&gpus[i], "parent") == gpu->index && index-- == 0)
            return *mig = &gpus[i], OK;
    return NOT_FOUND;
}

/* The statistics. A MIG instance has memory of its own and nothing else. */
int nvmlDeviceGetUtilizationRates(Gpu *gpu, Utilization *rates) {
    ENTER;
    rates->gpu = (unsigned)value(gpu, "util"), rates->memory = 0;
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMemoryInfo(Gpu *gpu, Memory *memory) {
    ENTER; /* v1 counts what the driver reserves as used */
    memset(memory, 0, sizeof *memory);
    memory->used = (unsigned long long)(value(gpu, "used") + value(gpu, "reserved"));
    return OK;
}
int nvmlDeviceGetTemperature(Gpu *gpu, unsigned sensor, unsigned *celsius) {
    ENTER;
    (void)sensor, *celsius = (unsigned)value(gpu, "temp");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetPowerUsage(Gpu *gpu, unsigned *milliwatts) {
    ENTER;
    *milliwatts = (unsigned)value(gpu, "power");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetClockInfo(Gpu *gpu, unsigned kind, unsigned *mhz) {
    ENTER;
    *mhz = (unsigned)value(gpu, kind == 1 ? "sm" : "memclk");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Gpu *gpu, unsigned long long *reasons) {
    ENTER;
    *reasons = (unsigned long long)value(gpu, "reasons");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetTotalEccErrors(Gpu *gpu, int kind, int since, unsigned long long *count) {
    ENTER;
    (void)since, *count = (unsigned long long)value(gpu, kind == 0 ? "corrected" : "uncorrected");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetPcieThroughput(Gpu *gpu, int counter, unsigned *kib_s) {
    ENTER;
    *kib_s = (unsigned)value(gpu, counter == 1 ? "pcie_rx" : "pcie_tx");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetFieldValues(Gpu *gpu, int number, FieldValue *values) {
    char text[128];
    ENTER;
    for (int i = 0; i < number; i++) {
        const char *name = values[i].field == 139 ? "nvlink_rx" : "nvlink_tx";
        values[i].value = (unsigned long long)value(gpu, name);
        values[i].result = field(gpu, name, text, sizeof text) ? OK : NOT_SUPPORTED;
    }
    return OK;
}
#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(Gpu *gpu, unsigned long long *reasons) {
    return nvmlDeviceGetCurrentClocksThrottleReasons(gpu, reasons);
}
int nvmlDeviceGetMemoryInfo_v2(Gpu *gpu, Memory_v2 *memory) {
    ENTER;
    memory->used = (unsigned long long)value(gpu, "used");
    memory->reserved = (unsigned long long)value(gpu, "reserved");
    return OK;
}
int nvmlDeviceGetTemperatureV(Gpu *gpu, Temperature *temperature) {
    ENTER;
    temperature->temperature = (int)value(gpu, "temp");
    return is_mig(gpu) ? NOT_SUPPORTED : OK;
}
#endif
