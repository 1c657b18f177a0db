// A record of the log: all that one commit added to it, as bytes, chained by a root.
//
//   body     := 01 item* | 02 digest[32]            02: everything in it was erased or archived
//   item     := header payload
//   header   := kind run_number [of an entry: run_seq back wall type actor by_boot_ms]
//   payload  := 00 body_hash[32] | (size + 1) salt[16] mark[8] body[size]     00: erased
// Numbers are varints (LEB128); back = 0 (none) or 1 + commit - previous_commit; wall = zigzag(wall
// - wall of the record); kind = 0 an entry, 1 an ended run (encode_ended), 2 a revived run; mark:
// the first bytes of body_hash, so that a check can name the item that was altered.
//
//   body_hash = H(salt, body)     H: BLAKE2b-256 (RFC 7693, by libsodium), salt in its salt field
//   digest    = H(header body_hash of each item)
//   root      = H(previous root, number, replay_from, wall_ms, count, last_run_number, digest)
//
// So a body can be erased, and the whole record shrunk to its digest, without breaking the chain.
// Numbers in hashes are 8 bytes, little endian; each H has its own personalisation string.
// Errors: kJournal with commit, item, byte, what was found and what was expected. Thread: any, one
// at a time.
#pragma once
#include <sodium.h>

#include <array>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "storage/journal.h"

namespace bp::storage {

inline constexpr size_t kSaltBytes = 16;
inline constexpr size_t kHashBytes = 32;
inline constexpr size_t kMarkBytes = 8;
inline constexpr uint64_t kRecordItemsMax = 1 << 20;
inline constexpr size_t kRecordBytesMax = 512 << 20;  // SQLite itself stops at 1e9

struct RecordHeader {
  uint64_t number = 0;
  uint64_t replay_from = 0;
  int64_t wall_ms = 0;
  uint64_t count = 0;            // items
  uint64_t last_run_number = 0;  // the greatest up to here
};
struct Record {
  RecordHeader header;
  std::string root;
  std::string body;
};

enum class ItemKind : uint8_t { kEntry = 0, kEnded = 1, kRevived = 2 };

/// One item; views into the record's body.
struct Item {
  ItemKind kind = ItemKind::kEntry;
  uint64_t run_number = 0, run_seq = 0, previous_commit = 0;
  int64_t wall_ms = 0;
  uint32_t type = 0;
  Next next;
  std::string_view header;
  bool erased = false;
  std::string_view salt, mark, body;  // erased: empty
  std::string_view erased_hash;
};

/// What every journal refuses: numbers that do not follow, entries without a sound Next.
Status check_commit(const Commit& commit, uint64_t last_number);
/// Actor known; a limit wherever somebody must act by then.
bool sound(const Next& next);

/// Makes records; keeps its buffers.
class RecordEncoder {
 public:
  RecordEncoder();
  /// kTooLarge, kJournal (more items or bytes than a reader would accept).
  Status encode(const Commit& commit, std::string_view previous_root, uint64_t last_run_number,
                Record& out);

 private:
  void put_item(size_t header_at, std::string_view body, Record& out);
  std::string_view next_salt();
  std::array<unsigned char, crypto_stream_chacha20_KEYBYTES> key_;
  uint64_t nonce_ = 0;
  std::string salts_;
  size_t salts_used_ = 0;
  std::string hashed_;
  std::string summary_;
};

/// Reads the items of a record, in order.
class RecordItems {
 public:
  explicit RecordItems(const Record& record);
  /// False: the end, after which nothing follows and `count` items were there.
  Result<bool> next(Item& item);
  /// No items: they were erased together.
  bool shrunk() const { return shrunk_; }

 private:
  Error fault(const std::string& found, const std::string& expected) const;
  Status header(Item& item);
  Status payload(Item& item);
  Result<uint64_t> varint(const char* what);
  Result<std::string_view> bytes(size_t n, const char* what);
  const Record& record_;
  size_t at_ = 1;
  uint64_t index_ = 0;
  bool shrunk_ = false;
};

std::array<char, kHashBytes> salted_hash(std::string_view salt, std::string_view body);
/// Digest over what the record holds now; marks are not trusted.
Result<std::string> digest_of(const Record& record);
std::string root_of(std::string_view previous_root, const RecordHeader& header,
                    std::string_view digest);

/// The record's body with the items for which `erase` says so reduced to their hash; with `shrink`,
/// when no body is left, to its digest alone. `erased`: how many bodies went.
Result<std::string> erase_items(const Record& record, const std::function<bool(const Item&)>& erase,
                                bool shrink, size_t& erased);

/// Summary of an ended run as bytes (an item of kind kEnded).
void encode_ended(const EndedRow& row, std::string& out);
Result<EndedRow> decode_ended(std::string_view bytes);

Entry to_entry(const Item& item);
/// Entries only. A shrunk record has none.
Result<LogRecord> decode_record(const Record& record);

using FetchRecord = std::function<Result<std::optional<Record>>(uint64_t number)>;
/// Journal::history over any source of records.
Result<std::vector<Entry>> history_of(const FetchRecord& fetch, uint64_t run_number,
                                      uint64_t last_commit, uint64_t after_run_seq);

std::string hex(std::string_view bytes);

}  // namespace bp::storage
