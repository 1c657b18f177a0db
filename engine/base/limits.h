// Every bound of the project in one file, each with its reason.
#pragma once
#include <cstddef>
#include <cstdint>

namespace bp::limits {

// Recipes: the published ones are 1-2 KB; a megabyte is beyond any real one.
inline constexpr size_t kRecipeBytes = 1 << 20;
inline constexpr int kJsonDepth = 32;
inline constexpr size_t kNameBytes = 256;
inline constexpr int kNodesMax = 200;         // one loopback address per local node
inline constexpr int kGpusPerNodeMax = 16;
inline constexpr int kRanksMax = 1024;

// ZeroMQ: a frame above this closes the connection (ZMQ_MAXMSGSIZE).
inline constexpr size_t kMessageBytes = 16 << 20;
inline constexpr int kSocketHighWater = 10'000;
// Checkpoint and handle bytes that the journal keeps for a stage.
inline constexpr size_t kCheckpointBytes = 256 << 10;
inline constexpr size_t kStageOutputBytes = 1 << 20;
// Payloads (inputs, outputs, signals) beyond this lie beside the log, by content hash.
inline constexpr size_t kInlinePayloadBytes = 64 << 10;

// Object store.
inline constexpr size_t kListPageBytes = 16 << 20;
inline constexpr int kObjectsMax = 100'000;
inline constexpr size_t kObjectNameBytes = 1024;  // OCI's own limit
inline constexpr int64_t kRangeBytes = 8 << 20;

// Model files.
inline constexpr uint64_t kModelHeaderBytes = 256ull << 20;
inline constexpr uint64_t kTensorsMax = 200'000;
inline constexpr int kTensorDimsMax = 8;
inline constexpr uint64_t kMetadataEntriesMax = 100'000;
inline constexpr uint64_t kMetadataArrayMax = 4'000'000;  // elements of all arrays of a file together
inline constexpr uint64_t kSafetensorsHeaderBytes = 16 << 20;  // 100,000 tensors; JSON grows 12-fold in memory
inline constexpr size_t kModelJsonBytes = 4 << 20;  // config.json and its like
// No known model comes near; products of these stay far below 2^64.
inline constexpr uint32_t kModelLayersMax = 4096;
inline constexpr uint32_t kModelWidthMax = 1 << 22;  // hidden, intermediate, vocabulary
inline constexpr uint32_t kModelHeadsMax = 4096;
inline constexpr uint32_t kModelHeadDimMax = 4096;

// HTTP endpoint.
inline constexpr size_t kHttpHeaderBytes = 64 << 10;
inline constexpr size_t kHttpBodyBytes = 16 << 20;
inline constexpr int kHttpConnections = 4096;

// Time, in milliseconds.
inline constexpr int64_t kNodeBeatMs = 500;
inline constexpr int64_t kNodeLostMs = 3 * kNodeBeatMs;
inline constexpr int64_t kStageBeatMs = 500;
inline constexpr int64_t kRankLeaseMs = 2'000;
inline constexpr int64_t kRankLeaseMarginMs = 500;
inline constexpr int64_t kStepDeadlineMs = 30'000;
inline constexpr int64_t kConnectMs = 5'000;

static_assert(kCheckpointBytes < kMessageBytes && kStageOutputBytes < kMessageBytes);
static_assert(kNodeLostMs < kRankLeaseMs * 2);

}  // namespace bp::limits
