// Writing side of records: framing, salts, hashes.
#include <algorithm>

#include "storage/record.h"
#include "storage/varint.h"

namespace bp::storage {
namespace {

constexpr size_t kSaltsAtOnce = 512;

unsigned char* raw(char* p) { return reinterpret_cast<unsigned char*>(p); }
const unsigned char* raw(const char* p) { return reinterpret_cast<const unsigned char*>(p); }

void hash(std::string_view salt, std::string_view bytes, const char (&personal)[17], char* out) {
  static constexpr unsigned char kNoSalt[kSaltBytes] = {};
  crypto_generichash_blake2b_salt_personal(raw(out), kHashBytes, raw(bytes.data()), bytes.size(),
                                           nullptr, 0, salt.empty() ? kNoSalt : raw(salt.data()),
                                           raw(personal));
}

}  // namespace

static_assert(kSaltBytes == crypto_generichash_blake2b_SALTBYTES);

std::array<char, kHashBytes> salted_hash(std::string_view salt, std::string_view body) {
  std::array<char, kHashBytes> out;
  hash(salt, body, "bp-journal-body1", out.data());
  return out;
}

std::string root_of(std::string_view previous_root, const RecordHeader& h,
                    std::string_view digest) {
  std::string in(previous_root);
  in.resize(kHashBytes, '\0');  // of nothing: before the first record
  put_u64(h.number, in);
  put_u64(h.replay_from, in);
  put_u64(uint64_t(h.wall_ms), in);
  put_u64(h.count, in);
  put_u64(h.last_run_number, in);
  in.append(digest);
  std::string out(kHashBytes, '\0');
  hash({}, in, "bp-journal-root1", out.data());
  return out;
}

bool sound(const Next& next) {
  switch (next.actor) {
    case Actor::kDaemon:
    case Actor::kStageHost:
    case Actor::kTimer:
      return next.by_boot_ms > 0;
    case Actor::kNobody:
    case Actor::kSignal:
    case Actor::kPerson:
    case Actor::kApplications:
      return next.by_boot_ms >= 0;
  }
  return false;
}

Status check_commit(const Commit& c, uint64_t last_number) {
  auto refuse = [&](const std::string& what) {
    return Error{ErrorCode::kJournal,
                 "refused by the journal: commit " + std::to_string(c.number) + ": " + what,
                 {}};
  };
  if (c.number != last_number + 1)
    return refuse("it does not follow commit " + std::to_string(last_number));
  if (c.replay_from > c.number) return refuse("it replays from a commit to come");
  for (const Entry& e : c.entries) {
    const std::string who =
        "entry " + std::to_string(e.run_seq) + " of run " + std::to_string(e.run_number);
    if (e.type == 0) return refuse(who + " has no type");
    if (!sound(e.next)) return refuse(who + " does not say who must act next and by when");
    if (e.previous_commit > c.number) return refuse(who + " hangs on a commit to come");
    if (e.run_number != 0 && (e.run_seq == 0 || (e.run_seq == 1) != (e.previous_commit == 0)))
      return refuse(who + " leaves a gap");
  }
  for (const LiveRow& r : c.put_live) {
    if (r.run_number == 0 || r.run_id.empty() || r.why.empty() || !sound(r.next) ||
        r.next.actor == Actor::kNobody || r.state <= 0) {
      return refuse("the live row of run " + std::to_string(r.run_number) +
                    " does not say who must act next, by when and why");
    }
  }
  for (const EndedRow& r : c.ended) {
    if (r.run_number == 0 || r.run_id.empty())
      return refuse("the summary of an ended run has no number or no id");
  }
  return {};
}

RecordEncoder::RecordEncoder() { randombytes_buf(key_.data(), key_.size()); }

// One call of the system for the key; salts are its stream cipher's output.
std::string_view RecordEncoder::next_salt() {
  if (salts_used_ + kSaltBytes > salts_.size()) {
    salts_.resize(kSaltsAtOnce * kSaltBytes);
    unsigned char nonce[crypto_stream_chacha20_NONCEBYTES] = {};
    for (size_t i = 0; i < sizeof nonce; ++i)
      nonce[i] = static_cast<unsigned char>(nonce_ >> (8 * i));
    ++nonce_;
    crypto_stream_chacha20(raw(salts_.data()), salts_.size(), nonce, key_.data());
    salts_used_ = 0;
  }
  const std::string_view salt(salts_.data() + salts_used_, kSaltBytes);
  salts_used_ += kSaltBytes;
  return salt;
}

void RecordEncoder::put_item(size_t header_at, std::string_view body, Record& out) {
  const std::string_view salt = next_salt();
  hashed_.append(out.body, header_at);
  const size_t at = hashed_.size();
  hashed_.resize(at + kHashBytes);
  hash(salt, body, "bp-journal-body1", hashed_.data() + at);
  put_varint(body.size() + 1, out.body);
  out.body.append(salt);
  out.body.append(hashed_, at, kMarkBytes);
  out.body.append(body);
}

Status RecordEncoder::encode(const Commit& c, std::string_view previous_root,
                             uint64_t last_run_number, Record& out) {
  const size_t count = c.entries.size() + c.ended.size() + c.revived.size();
  out.header = {c.number, c.replay_from, c.wall_ms, count, last_run_number};
  out.body.assign(1, '\1');
  hashed_.clear();
  for (const Entry& e : c.entries) {
    const size_t from = out.body.size();
    out.body.push_back('\0');
    put_varint(e.run_number, out.body);
    put_varint(e.run_seq, out.body);
    put_varint(e.previous_commit == 0 ? 0 : 1 + c.number - e.previous_commit, out.body);
    put_varint(zigzag_difference(e.wall_ms, c.wall_ms), out.body);
    put_varint(e.type, out.body);
    put_varint(uint64_t(e.next.actor), out.body);
    put_varint(uint64_t(e.next.by_boot_ms), out.body);
    put_item(from, e.body, out);
    out.header.last_run_number = std::max(out.header.last_run_number, e.run_number);
  }
  for (const EndedRow& r : c.ended) {
    const size_t from = out.body.size();
    out.body.push_back('\1');
    put_varint(r.run_number, out.body);
    summary_.clear();
    encode_ended(r, summary_);
    put_item(from, summary_, out);
  }
  for (uint64_t run : c.revived) {
    const size_t from = out.body.size();
    out.body.push_back('\2');
    put_varint(run, out.body);
    put_item(from, {}, out);
  }
  if (count > kRecordItemsMax || out.body.size() > kRecordBytesMax) {
    return Error{ErrorCode::kTooLarge,
                 "commit " + std::to_string(c.number) + " has " + std::to_string(count) +
                     " items of " + std::to_string(out.body.size()) + " bytes, at most " +
                     std::to_string(kRecordItemsMax) + " of " + std::to_string(kRecordBytesMax),
                 {}};
  }
  std::string digest(kHashBytes, '\0');
  hash({}, hashed_, "bp-journal-items", digest.data());
  out.root = root_of(previous_root, out.header, digest);
  return {};
}

Result<std::string> digest_of(const Record& record) {
  RecordItems items(record);
  if (items.shrunk()) {
    if (record.body.size() != 1 + kHashBytes)
      return Error{ErrorCode::kJournal,
                   "commit " + std::to_string(record.header.number) + ": found a digest of " +
                       std::to_string(record.body.size() - 1) + " bytes, expected 32",
                   {}};
    return record.body.substr(1);
  }
  std::string hashed;
  Item item;
  while (true) {
    BP_ASSIGN(bool more, items.next(item));
    if (!more) break;
    hashed.append(item.header);
    if (item.erased) {
      hashed.append(item.erased_hash);
    } else {
      const auto h = salted_hash(item.salt, item.body);
      hashed.append(h.data(), h.size());
    }
  }
  std::string digest(kHashBytes, '\0');
  hash({}, hashed, "bp-journal-items", digest.data());
  return digest;
}

Result<std::string> erase_items(const Record& record, const std::function<bool(const Item&)>& erase,
                                bool shrink, size_t& erased) {
  RecordItems items(record);
  erased = 0;
  if (items.shrunk()) return record.body;
  std::string out(1, '\1');
  Item item;
  bool any_left = false;
  while (true) {
    BP_ASSIGN(bool more, items.next(item));
    if (!more) break;
    out.append(item.header);
    if (item.erased || erase(item)) {
      const auto h = salted_hash(item.salt, item.body);
      out.push_back('\0');
      out.append(item.erased ? item.erased_hash : std::string_view(h.data(), h.size()));
      if (!item.erased) ++erased;
      continue;
    }
    any_left = true;
    put_varint(item.body.size() + 1, out);
    out.append(item.salt).append(item.mark).append(item.body);
  }
  if (any_left || !shrink || erased == 0) return out;
  BP_ASSIGN(std::string digest, digest_of(record));
  return "\2" + digest;
}

}  // namespace bp::storage
