/* A libnvidia-ml.so.1 whose cards stand in a file that a test rewrites while it is in use.

   FAKE_NVML names a folder:
     cards       one "key value" a line: what holds for all, then a block for each "card"
     taken/PID   "UUID MIB LAG_MS": memory that a process holds; once it is dead, for LAG_MS more
     calls       written here: one line for each initialisation and shutdown

   For all (default): init (0), count_code (0), hang (0: while it is not, no call returns),
   delay_ms (0, for each call), epoch (0: after a change everything is stale_code until initialised
   afresh), stale_code (999).
   For a card: uuid, name, pci, total_mib, used_mib, utilization, capability ("8.6"), mig (-1: not
   capable), untold (0: per-process memory is N/A), process ("PID MIB"), and the codes that calls
   return: handle_code, pci_code, uuid_code, name_code, memory_code, utilization_code,
   capability_code, processes_code.

   Layouts as in NVIDIA's nvml.h. */

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CARDS = 8, PROCESSES = 32, OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, SMALL = 7 };
static const unsigned long long NOT_TOLD = ~0ULL;

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci_t;
typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} process_t;

typedef struct { unsigned pid; unsigned long long mib; } holder_t;
typedef struct {
    char uuid[96], name[96], pci[32], capability[16];
    unsigned long long total_mib, used_mib;
    int utilization, mig, untold, holders;
    int handle_code, pci_code, uuid_code, name_code, memory_code, utilization_code;
    int capability_code, processes_code;
    holder_t holder[PROCESSES];
} card_t;
typedef struct {
    int init, count_code, hang, delay_ms, epoch, stale_code, count;
    card_t card[CARDS];
} machine_t;

static int opened, opened_epoch;

static const char *place(const char *name, char *path) {
    const char *folder = getenv("FAKE_NVML");
    snprintf(path, PATH_MAX, "%s/%s", folder ? folder : "/nonexistent", name);
    return path;
}

static void read_card(card_t *card, const char *key, const char *value) {
    struct { const char *key; int *number; } numbers[] = {
        {"utilization", &card->utilization}, {"mig", &card->mig}, {"untold", &card->untold},
        {"handle_code", &card->handle_code}, {"pci_code", &card->pci_code},
        {"uuid_code", &card->uuid_code}, {"name_code", &card->name_code},
        {"memory_code", &card->memory_code}, {"utilization_code", &card->utilization_code},
        {"capability_code", &card->capability_code}, {"processes_code", &card->processes_code},
    };
    for (unsigned n = 0; n < sizeof numbers / sizeof *numbers; n++)
        if (!strcmp(key, numbers[n].key)) *numbers[n].number = atoi(value);
    if (!strcmp(key, "uuid")) snprintf(card->uuid, sizeof card->uuid, "%s", value);
    if (!strcmp(key, "name")) snprintf(card->name, sizeof card->name, "%s", value);
    if (!strcmp(key, "pci")) snprintf(card->pci, sizeof card->pci, "%s", value);
    if (!strcmp(key, "capability")) snprintf(card->capability, sizeof card->capability, "%s", value);
    if (!strcmp(key, "total_mib")) card->total_mib = strtoull(value, 0, 10);
    if (!strcmp(key, "used_mib")) card->used_mib = strtoull(value, 0, 10);
    if (!strcmp(key, "process") && card->holders < PROCESSES) {
        holder_t *holder = &card->holder[card->holders++];
        sscanf(value, "%u %llu", &holder->pid, &holder->mib);
    }
}

static void read_machine(machine_t *machine) {
    char path[PATH_MAX], line[512];
    memset(machine, 0, sizeof *machine);
    machine->stale_code = 999;
    FILE *file = fopen(place("cards", path), "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *value = strchr(line, ' ');
        if (value) *value++ = 0; else value = line + strlen(line);
        if (!strcmp(line, "card") && machine->count < CARDS) {
            machine->card[machine->count++].mig = -1;
            continue;
        }
        if (machine->count) {
            read_card(&machine->card[machine->count - 1], line, value);
            continue;
        }
        if (!strcmp(line, "init")) machine->init = atoi(value);
        if (!strcmp(line, "count_code")) machine->count_code = atoi(value);
        if (!strcmp(line, "hang")) machine->hang = atoi(value);
        if (!strcmp(line, "delay_ms")) machine->delay_ms = atoi(value);
        if (!strcmp(line, "epoch")) machine->epoch = atoi(value);
        if (!strcmp(line, "stale_code")) machine->stale_code = atoi(value);
    }
    if (file) fclose(file);
}

/* How long a process has been dead, in ms; -1 while it lives. */
static long long dead_for_ms(unsigned pid) {
    static struct { unsigned pid; long long since_ms; } dead[256];
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long now_ms = now.tv_sec * 1000LL + now.tv_nsec / 1000000;
    if (!kill((pid_t)pid, 0) || errno == EPERM) return -1;
    for (unsigned n = 0; n < 256; n++) {
        if (dead[n].pid == pid) return now_ms - dead[n].since_ms;
        if (!dead[n].pid) {
            dead[n].pid = pid;
            dead[n].since_ms = now_ms;
            return 0;
        }
    }
    return LLONG_MAX;
}

static void add_taken(machine_t *machine) {
    char folder[PATH_MAX], path[PATH_MAX + 300], uuid[96];
    DIR *entries = opendir(place("taken", folder));
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        unsigned pid = (unsigned)atoi(entry->d_name);
        unsigned long long mib;
        long long lag_ms;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = pid ? fopen(path, "r") : 0;
        if (file && fscanf(file, "%95s %llu %lld", uuid, &mib, &lag_ms) == 3) {
            long long dead_ms = dead_for_ms(pid);
            for (int n = 0; n < machine->count && dead_ms < lag_ms; n++) {
                card_t *card = &machine->card[n];
                if (strcmp(card->uuid, uuid)) continue;
                card->used_mib += mib;
                if (dead_ms < 0 && card->holders < PROCESSES)
                    card->holder[card->holders++] = (holder_t){pid, mib};
            }
        }
        if (file) fclose(file);
    }
    if (entries) closedir(entries);
}

static void look(machine_t *machine) {
    read_machine(machine);
    usleep((useconds_t)machine->delay_ms * 1000);
    while (machine->hang) {
        usleep(10000);
        read_machine(machine);
    }
    add_taken(machine);
}

static int enter(machine_t *machine) {
    look(machine);
    if (!opened) return UNINITIALIZED;
    return machine->epoch == opened_epoch ? OK : machine->stale_code;
}

static int enter_card(machine_t *machine, void *handle, card_t **card) {
    int code = enter(machine), place = (int)(long)handle - 1;
    if (code) return code;
    if (place < 0 || place >= machine->count) return INVALID;
    *card = &machine->card[place];
    return OK;
}

static void note(const char *what) {
    char path[PATH_MAX];
    FILE *file = fopen(place("calls", path), "a");
    if (file) {
        fprintf(file, "%s\n", what);
        fclose(file);
    }
}

int nvmlInitWithFlags(unsigned flags) {
    machine_t machine;
    (void)flags;
    look(&machine);
    note("init");
    if (machine.init) return machine.init;
    opened++;
    opened_epoch = machine.epoch;
    return OK;
}

int nvmlShutdown(void) {
    note("shutdown");
    if (!opened) return UNINITIALIZED;
    opened--;
    return OK;
}

const char *nvmlErrorString(int code) { return code == 999 ? "Unknown Error" : "Some Error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    machine_t machine;
    int code = enter(&machine);
    *count = (unsigned)machine.count;
    return code ? code : machine.count_code;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    machine_t machine;
    card_t *card = 0;
    int code = enter_card(&machine, (void *)(long)(index + 1), &card);
    if (code) return code;
    *handle = (void *)(long)(index + 1);
    return card->handle_code;
}

#define CARD_CALL(NAME, CODE, PARAMETERS, ANSWER)                                                  \
    int NAME PARAMETERS {                                                                          \
        machine_t machine;                                                                         \
        card_t *card = 0;                                                                          \
        int code = enter_card(&machine, handle, &card);                                            \
        if (code || card->CODE) return code ? code : card->CODE;                                   \
        ANSWER;                                                                                    \
        return OK;                                                                                 \
    }

CARD_CALL(nvmlDeviceGetUUID, uuid_code, (void *handle, char *text, unsigned length),
          snprintf(text, length, "%s", card->uuid))
CARD_CALL(nvmlDeviceGetName, name_code, (void *handle, char *text, unsigned length),
          snprintf(text, length, "%s", card->name))
CARD_CALL(nvmlDeviceGetPciInfo_v3, pci_code, (void *handle, pci_t *pci),
          memset(pci, 0, sizeof *pci); snprintf(pci->bus_id, sizeof pci->bus_id, "%s", card->pci))
CARD_CALL(nvmlDeviceGetMemoryInfo, memory_code, (void *handle, memory_t *memory),
          memory->total = card->total_mib << 20;
          memory->used = memory->total < card->used_mib << 20 ? memory->total : card->used_mib << 20;
          memory->free = memory->total - memory->used)
CARD_CALL(nvmlDeviceGetUtilizationRates, utilization_code, (void *handle, utilization_t *rates),
          rates->gpu = (unsigned)card->utilization; rates->memory = 0)
CARD_CALL(nvmlDeviceGetCudaComputeCapability, capability_code,
          (void *handle, int *major, int *minor),
          sscanf(card->capability, "%d.%d", major, minor))

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    machine_t machine;
    card_t *card = 0;
    int code = enter_card(&machine, handle, &card);
    if (code || card->mig < 0) return code ? code : UNSUPPORTED;
    *current = *pending = (unsigned)card->mig;
    return OK;
}

static int list_processes(void *handle, unsigned *count, process_t *processes) {
    machine_t machine;
    card_t *card = 0;
    int code = enter_card(&machine, handle, &card);
    if (code || card->processes_code) return code ? code : card->processes_code;
    unsigned room = *count;
    *count = (unsigned)card->holders;
    if (room < *count || (*count && !processes)) return SMALL;
    for (int n = 0; n < card->holders; n++) {
        holder_t *holder = &card->holder[n];
        unsigned long long used = card->untold ? NOT_TOLD : holder->mib << 20;
        processes[n] = (process_t){holder->pid, used, ~0U, ~0U};
    }
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *count, process_t *processes) {
    return list_processes(handle, count, processes);
}

#ifndef OLD_DRIVER /* before 510 there is no third version */
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *processes) {
    return list_processes(handle, count, processes);
}
#endif
