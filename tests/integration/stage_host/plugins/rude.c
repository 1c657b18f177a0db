/* A plugin below the SDK: says SUCCEEDED and then something else, or (attempts whose bytes hold "garbage") junk. */
#include <string.h>

#include "plugins/sdk/stage_abi.h"

static int holds(bp_bytes bytes, const char* word) { return memmem(bytes.data, bytes.size, word, strlen(word)) != 0; }

static void run(const bp_stage_host_v1* host, bp_bytes ref, bp_bytes attempt,
                void (*take)(void* arg, bp_bytes result), void* arg) {
  static const char succeeded[] = {8, 1}, failed[] = {8, 2}, junk[] = {(char)0xff, 3, 7, 7, 7, (char)0x99};
  if (holds(attempt, "garbage")) {
    host->beat(host->self, (bp_bytes){junk, sizeof junk});
    take(arg, (bp_bytes){junk, sizeof junk});
    return;
  }
  take(arg, (bp_bytes){succeeded, sizeof succeeded});
  take(arg, (bp_bytes){failed, sizeof failed});
  take(arg, (bp_bytes){junk, sizeof junk});
}

BP_STAGE_EXPORT const bp_stage_v1* bp_stage_entry(uint32_t host_min, uint32_t host_max) {
  static const bp_stage_v1 table = {sizeof table, BP_STAGE_ABI_VERSION, "rude", 1, run};
  return host_min <= BP_STAGE_ABI_VERSION && BP_STAGE_ABI_VERSION <= host_max ? &table : 0;
}
