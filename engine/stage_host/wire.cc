#include "engine/stage_host/wire.h"

#include "bp/v1/stage.pb.h"

namespace bp::stage_host {
namespace {

enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

}  // namespace

std::optional<uint64_t> WireReader::varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64 && at_ < end_; shift += 7) {
    const auto byte = static_cast<unsigned char>(*at_++);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return value;
  }
  return std::nullopt;
}

std::optional<WireReader::Field> WireReader::next() {
  if (at_ == end_ || failed_) return std::nullopt;
  const auto tag = varint();
  if (!tag || *tag >> 32 || *tag >> 3 == 0) return fail();
  Field field;
  field.number = static_cast<uint32_t>(*tag >> 3);
  const uint32_t type = static_cast<uint32_t>(*tag & 7);
  if (type == kVarint) {
    const auto value = varint();
    if (!value) return fail();
    field.value = *value;
    return field;
  }
  uint64_t size = 0;
  if (type == kBytes) {
    const auto given = varint();
    if (!given) return fail();
    size = *given;
    field.is_bytes = true;
  } else if (type == kFixed64 || type == kFixed32) {
    size = type == kFixed64 ? 8 : 4;
  } else {
    return fail();
  }
  if (size > static_cast<uint64_t>(end_ - at_)) return fail();
  field.bytes = std::string_view(at_, size);
  at_ += size;
  return field;
}

size_t varint_size(uint64_t value) {
  size_t n = 1;
  for (; value >= 128; value >>= 7) ++n;
  return n;
}

void append_varint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value | 128));
  out.push_back(static_cast<char>(value));
}

void append_field(std::string& out, uint32_t number, uint64_t value) {
  append_varint(out, static_cast<uint64_t>(number) << 3 | kVarint);
  append_varint(out, value);
}

void append_field(std::string& out, uint32_t number, std::string_view bytes) {
  append_varint(out, static_cast<uint64_t>(number) << 3 | kBytes);
  append_varint(out, bytes.size());
  out.append(bytes);
}

void append_message(std::string& batch, std::string_view ref, uint64_t sequence, uint32_t body_number,
                    std::string_view body) {
  using v1::StageMessage;
  const auto bytes_size = [](uint32_t number, size_t size) {
    return varint_size(static_cast<uint64_t>(number) << 3) + varint_size(size) + size;
  };
  size_t size = varint_size(StageMessage::kSequenceFieldNumber << 3) + varint_size(sequence) +
                bytes_size(body_number, body.size());
  if (!ref.empty()) size += bytes_size(StageMessage::kRefFieldNumber, ref.size());
  append_varint(batch, v1::StageBatch::kMessagesFieldNumber << 3 | kBytes);
  append_varint(batch, size);
  if (!ref.empty()) append_field(batch, StageMessage::kRefFieldNumber, ref);
  append_field(batch, StageMessage::kSequenceFieldNumber, sequence);
  append_field(batch, body_number, body);
}

std::optional<std::string> attempt_key(std::string_view ref) {
  std::string_view run, stage;
  uint64_t map_index = 0, incarnation = 0, counter = 0;
  WireReader reader(ref);
  while (auto f = reader.next()) {
    if (f->number == v1::AttemptRef::kRunIdFieldNumber) run = f->bytes;
    if (f->number == v1::AttemptRef::kStageFieldNumber) stage = f->bytes;
    if (f->number == v1::AttemptRef::kMapIndexFieldNumber) map_index = f->value;
    if (f->number != v1::AttemptRef::kEpochFieldNumber) continue;
    WireReader epoch(f->bytes);
    while (auto e = epoch.next()) {
      if (e->number == v1::Epoch::kIncarnationFieldNumber) incarnation = e->value;
      if (e->number == v1::Epoch::kCounterFieldNumber) counter = e->value;
    }
    if (epoch.failed()) return std::nullopt;
  }
  if (reader.failed() || run.empty()) return std::nullopt;
  std::string key;
  key.reserve(run.size() + stage.size() + 24);
  append_varint(key, run.size());
  key.append(run);
  append_varint(key, stage.size());
  key.append(stage);
  append_varint(key, map_index);
  append_varint(key, incarnation);
  append_varint(key, counter);
  return key;
}

}  // namespace bp::stage_host
