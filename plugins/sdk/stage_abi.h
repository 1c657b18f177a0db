/* The C boundary between bp-stage-host and a stage plugin. Pure C: no C++ type, exception or allocator
 * crosses it. A plugin exports one symbol:
 *
 *   const bp_stage_v1* bp_stage_entry(uint32_t host_min, uint32_t host_max);
 *
 * It returns a table whose abi_version lies in [host_min, host_max], or NULL when it has none to offer
 * (the host then reports which versions it speaks). The table lives as long as the process: a plugin is
 * never dlclosed. `size` comes first in every struct so that later versions can grow; NULL members are
 * optional where marked. Bytes are serialized protobuf messages of proto/bp/v1/stage.proto.
 */
#ifndef BP_STAGE_ABI_H
#define BP_STAGE_ABI_H
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BP_STAGE_ABI_VERSION 1u
#define BP_STAGE_EXPORT __attribute__((visibility("default")))

typedef struct bp_bytes {
  const char* data; /* OWNERSHIP: of whoever passes it; valid during the call only */
  size_t size;
} bp_bytes;

/* What a running attempt may ask of its host. All functions may be called from any thread until run()
 * returns. None blocks but node_call, node_notice, secret_put and wait. */
typedef struct bp_stage_host_v1 {
  uint32_t size;
  void* self;
  /* bytes: AttemptBeat. The host adds a beat of its own when none comes for a while; `progress` tells
   * that work goes on. */
  void (*beat)(void* self, bp_bytes beat);
  /* 1 once the attempt is to end; deadline_ms (may be NULL) gets what is left. */
  int (*cancelled)(void* self, int64_t* deadline_ms);
  /* bytes: NodeCall without call_id. Waits for the answer; `reply` (NodeCommandReply) is handed to
   * `take` before node_call returns. 0: answered; 1: deadline; 2: cancelled. */
  int (*node_call)(void* self, bp_bytes call, void (*take)(void* arg, bp_bytes reply), void* arg);
  /* Takes the oldest unread NodeNotice, waiting up to wait_ms. 1: one was handed to `take`; 0: none. */
  int (*node_notice)(void* self, int64_t wait_ms, void (*take)(void* arg, bp_bytes notice), void* arg);
  /* level: "debug", "info", "warn", "error". */
  void (*log)(void* self, const char* level, bp_bytes text);
  /* Stores a secret of the run; later stages that need secrets get it. 0: durable; 1: deadline. */
  int (*secret_put)(void* self, const char* name, bp_bytes value);
  /* From here on only where `size` says so. */
  /* An option that the host has for all its attempts; the attempt's own win. 1: it was handed to `take`. */
  int (*option)(void* self, bp_bytes name, void (*take)(void* arg, bp_bytes value), void* arg);
  /* Waits up to wait_ms, less once the attempt is to end: then 1, else 0. */
  int (*wait)(void* self, int64_t wait_ms);
} bp_stage_host_v1;
/* What every host has. */
#define BP_STAGE_HOST_V1_MIN_SIZE offsetof(bp_stage_host_v1, option)

typedef struct bp_stage_v1 {
  uint32_t size;
  uint32_t abi_version;     /* BP_STAGE_ABI_VERSION it was built for */
  const char* name;         /* OWNERSHIP: static */
  uint32_t version;
  /* Runs one attempt. `ref`: AttemptRef, `attempt`: RunAttempt. `result` gets an AttemptResult through
   * `take` exactly once before run returns. Must not throw. */
  void (*run)(const bp_stage_host_v1* host, bp_bytes ref, bp_bytes attempt,
              void (*take)(void* arg, bp_bytes result), void* arg);
} bp_stage_v1;

typedef const bp_stage_v1* (*bp_stage_entry_fn)(uint32_t host_min, uint32_t host_max);

#ifdef __cplusplus
}
#endif
#endif
