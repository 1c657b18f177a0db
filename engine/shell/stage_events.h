// Events out of what stage hosts say: bounded, redacted. Thread: any.
#pragma once
#include <map>
#include <string>

#include "bp/v1/journal.pb.h"
#include "bp/v1/stage.pb.h"
#include "engine/base/ids.h"
#include "engine/base/limits.h"
#include "engine/core/core.h"

namespace bp::shell {

/// Bytes of names and values together.
template <class Outputs>
size_t bytes_of(const Outputs& outputs) {
  size_t n = 0;
  for (const auto& [k, v] : outputs) n += k.size() + v.size();
  return n;
}

/// Null when the run's workflow has no such stage.
const v1::StageDefinition* definition_of(const core::RunState& run, const std::string& stage);

/// Takes what is beyond limits::kInlinePayloadBytes out of `outputs`: its hash goes to `payloads`,
/// the bytes to `blobs` (for the same commit).
template <class Map>
void set_beside(Map* outputs, Map* payloads, std::map<std::string, std::string>* blobs) {
  for (auto it = outputs->begin(); it != outputs->end();) {
    if (it->second.size() <= limits::kInlinePayloadBytes) {
      ++it;
      continue;
    }
    const std::string hash = content_hash(it->second);
    (*payloads)[it->first] = hash;
    (*blobs)[hash] = std::move(it->second);
    it = outputs->erase(it);
  }
}

/// AttemptEnded. Outputs beyond limits::kStageOutputBytes make it a failure. `run` may be null.
v1::Event ended_event(const core::RunState* run, const std::string& stage, uint32_t map_index,
                      const v1::Epoch& epoch, v1::AttemptResult&& result,
                      std::map<std::string, std::string>* blobs);

}  // namespace bp::shell
