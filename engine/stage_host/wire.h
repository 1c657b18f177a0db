// Protobuf's wire format by hand, for the two messages that a shared host sees by the thousand: what it does
// not look into (inputs, outputs) is passed on as it came. Readers are bounded by the bytes they are given.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bp::stage_host {

/// One field after the other of a serialized message.
class WireReader {
 public:
  struct Field {
    uint32_t number = 0;
    bool is_bytes = false;
    uint64_t value = 0;      // of a varint or fixed field
    std::string_view bytes;  // of a length-delimited field
  };
  explicit WireReader(std::string_view bytes) : at_(bytes.data()), end_(at_ + bytes.size()) {}
  /// The next field; nullopt at the end, and where the bytes are malformed (then failed()).
  std::optional<Field> next();
  bool failed() const { return failed_; }
  /// A bare varint, as in a packed field.
  std::optional<uint64_t> varint();

 private:
  std::optional<Field> fail() {
    failed_ = true;
    return std::nullopt;
  }
  const char* at_;
  const char* end_;
  bool failed_ = false;
};

void append_varint(std::string& out, uint64_t value);
void append_field(std::string& out, uint32_t number, uint64_t value);
void append_field(std::string& out, uint32_t number, std::string_view bytes);
size_t varint_size(uint64_t value);

/// Appends to a StageBatch a StageMessage: its ref, its sequence, and its body, each as serialized bytes.
/// `body_number` is the field number of the body in StageMessage.
void append_message(std::string& batch, std::string_view ref, uint64_t sequence, uint32_t body_number,
                    std::string_view body);

/// Run, stage, map index and epoch of a serialized AttemptRef in one string; nullopt: it is malformed, or
/// names no run. Equal for equal attempts, whatever the order of the fields.
std::optional<std::string> attempt_key(std::string_view ref);

}  // namespace bp::stage_host
