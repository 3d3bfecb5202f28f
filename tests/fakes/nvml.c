/* A libnvidia-ml.so.1 with as many cards as the environment says, and its failures.

   FAKE_NVML_COUNT   cards (2); card n has (n + 1) * 8 GiB, 1 GiB of it in use
   FAKE_NVML_INIT    the code that initialising returns (0)
   FAKE_NVML_LOST    the card that has fallen off the bus (none)
   FAKE_NVML_CODE    what that card's calls return (15, NVML_ERROR_GPU_IS_LOST)
   FAKE_NVML_HANG    initialising never returns */

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int card_of(void *handle) { return (int)(long)handle - 1; }

static int state_of(int card) {
    return card == setting("FAKE_NVML_LOST", -1) ? setting("FAKE_NVML_CODE", 15) : 0;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    while (getenv("FAKE_NVML_HANG")) pause();
    return setting("FAKE_NVML_INIT", 0);
}

int nvmlShutdown(void) { return 0; }

const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "Some Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = setting("FAKE_NVML_COUNT", 2);
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    *handle = (void *)(long)(index + 1);
    return 0;
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    memory->total = (card_of(handle) + 1) * (8ULL << 30);
    memory->used = 1ULL << 30;
    memory->free = memory->total - memory->used;
    return state_of(card_of(handle));
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    snprintf(uuid, length, "GPU-00000000-0000-0000-0000-%012d", card_of(handle));
    return state_of(card_of(handle));
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    snprintf(name, length, "Fake Card %d", card_of(handle));
    return state_of(card_of(handle));
}
