/* A CUDA runtime with one device and nothing behind it.

Loaded before PyTorch, its functions come before those of libcudart.so: PyTorch then sees a GPU, has
streams for it, runs backward in a thread of its own, takes and gives back memory, captures graphs
and replays them, and all that it keeps about these is its own. Only no kernel runs: nothing is
computed, and memory is addresses without anything behind them. What is not here fails, for there is
no driver.
*/

#include <driver_types.h> /* of the package nvidia-cuda-runtime, which PyTorch needs */
#include <stdlib.h>
#include <string.h>

typedef int error;
enum { SUCCESS = 0, OUT_OF_MEMORY = 2, INVALIDATED = 901 };

/* ---- what a test sets ---- */

static size_t memory_left = (size_t)1 << 40;
static int ends_fail;
void stub_set_memory(size_t bytes) { memory_left = bytes; }
size_t stub_memory(void) { return memory_left; }
void stub_fail_ends(int count) { ends_fail = count; }

/* ---- the device ---- */

error cudaGetDeviceCount(int *count) { *count = 1; return SUCCESS; }
error cudaGetDevice(int *device) { *device = 0; return SUCCESS; }
error cudaSetDevice(int device) { return device; }
error cudaGetLastError(void) { return SUCCESS; }
error cudaPeekAtLastError(void) { return SUCCESS; }
error cudaRuntimeGetVersion(int *version) { *version = 13000; return SUCCESS; }
error cudaDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
error cudaDeviceGetAttribute(int *value, int attribute, int device) { *value = 1024; return SUCCESS; }
error cudaDeviceSynchronize(void) { return SUCCESS; }
error cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}
error cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    memset(properties, 0, sizeof *properties);
    strcpy(properties->name, "no GPU");
    properties->major = 9;
    properties->multiProcessorCount = 132;
    properties->warpSize = 32;
    properties->totalGlobalMem = (size_t)1 << 40;
    properties->sharedMemPerBlock = properties->sharedMemPerBlockOptin = 48 << 10;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    for (int k = 0; k < 3; k++) {
        properties->maxThreadsDim[k] = 1024;
        properties->maxGridSize[k] = 65535;
    }
    return SUCCESS;
}

/* ---- memory: each piece remembers its size in a list ---- */

typedef struct Piece { char *place; size_t size; struct Piece *next; } Piece;
static Piece *pieces;
static char *next_place = (char *)0x700000000000;

error cudaMalloc(void **place, size_t size) {
    if (size > memory_left) return OUT_OF_MEMORY;
    Piece *piece = malloc(sizeof *piece);
    *piece = (Piece){next_place, size, pieces};
    pieces = piece;
    memory_left -= size;
    *place = next_place;
    next_place += (size + 0x1fffff) & ~(size_t)0x1fffff;
    return SUCCESS;
}
error cudaFree(void *place) {
    for (Piece **at = &pieces; *at; at = &(*at)->next)
        if ((*at)->place == place) {
            Piece *gone = *at;
            memory_left += gone->size;
            *at = gone->next;
            free(gone);
            break;
        }
    return SUCCESS;
}
error cudaMemGetInfo(size_t *left, size_t *all) { *left = memory_left; *all = (size_t)1 << 40; return SUCCESS; }
error cudaHostAlloc(void **place, size_t size) { *place = malloc(size); return SUCCESS; }
error cudaFreeHost(void *place) { free(place); return SUCCESS; }
error cudaMemsetAsync(void *place, int value, size_t size, void *stream) { return SUCCESS; }
error cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { return SUCCESS; }

/* ---- streams, events, kernels ---- */

static size_t handles = 16;
static error handle(void **out) { *out = (void *)(handles += 16); return SUCCESS; }
error cudaStreamCreateWithPriority(void **stream, unsigned flags, int priority) { return handle(stream); }
error cudaStreamSynchronize(void *stream) { return SUCCESS; }
error cudaStreamQuery(void *stream) { return SUCCESS; }
error cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return SUCCESS; }
error cudaEventCreateWithFlags(void **event, unsigned flags) { return handle(event); }
error cudaEventDestroy(void *event) { return SUCCESS; }
error cudaEventQuery(void *event) { return SUCCESS; }
error cudaEventRecord(void *event, void *stream) { return SUCCESS; }
error cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) { return SUCCESS; }
error cudaEventSynchronize(void *event) { return SUCCESS; }
error cudaLaunchKernel() { return SUCCESS; }
error cudaLaunchKernelExC() { return SUCCESS; }

/* ---- graphs ---- */

static void *capturing;
static unsigned long long captures;
error cudaThreadExchangeStreamCaptureMode(int *mode) { return SUCCESS; }
error cudaStreamIsCapturing(void *stream, int *status) {
    *status = capturing && stream == capturing;
    return SUCCESS;
}
error cudaStreamGetCaptureInfo(void *stream, int *status, unsigned long long *number) {
    *status = capturing && stream == capturing;
    if (number) *number = *status ? captures : 0;
    return SUCCESS;
}
error cudaStreamBeginCapture(void *stream, int mode) {
    capturing = stream;
    captures++;
    return SUCCESS;
}
error cudaStreamEndCapture(void *stream, void **graph) {
    capturing = NULL;
    *graph = NULL;
    if (ends_fail > 0) {
        ends_fail--;
        return INVALIDATED;
    }
    return handle(graph);
}
error cudaGraphGetNodes(void *graph, void **nodes, size_t *count) { *count = 1; return SUCCESS; }
error cudaGraphInstantiateWithFlags(void **out, void *graph, unsigned long long flags) { return handle(out); }
error cudaGraphLaunch(void *graph, void *stream) { return SUCCESS; }
error cudaGraphDestroy(void *graph) { return SUCCESS; }
error cudaGraphExecDestroy(void *graph) { return SUCCESS; }

/* The driver's only function that is asked for; this library is also libcuda.so.1 (its soname). */
error cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0;
    *active = 1;
    return SUCCESS;
}
