// Reading side of records: bounded by the record's size, and by its count of items.
#include "storage/record.h"

#include <algorithm>

#include "storage/varint.h"

namespace bp::storage {

std::string hex(std::string_view bytes) {
  std::string out;
  for (char c : bytes) {
    out.push_back("0123456789abcdef"[static_cast<unsigned char>(c) >> 4]);
    out.push_back("0123456789abcdef"[static_cast<unsigned char>(c) & 15]);
  }
  return out;
}

RecordItems::RecordItems(const Record& record)
    : record_(record), shrunk_(!record.body.empty() && record.body[0] == '\2') {}

Error RecordItems::fault(const std::string& found, const std::string& expected) const {
  return {ErrorCode::kJournal,
          "commit " + std::to_string(record_.header.number) + ": item " +
              std::to_string(index_ + 1) + " of " + std::to_string(record_.header.count) +
              ", byte " + std::to_string(at_) + " of " + std::to_string(record_.body.size()) +
              ": found " + found + ", expected " + expected,
          "The journal is damaged: keep it for inspection and restore the newest backup"};
}

Result<uint64_t> RecordItems::varint(const char* what) {
  const auto v = get_varint(record_.body, at_);
  if (!v) return fault("no number", what);
  return *v;
}

Result<std::string_view> RecordItems::bytes(size_t n, const char* what) {
  const size_t left = record_.body.size() - at_;
  if (n > left)
    return fault(std::to_string(left) + " bytes", std::to_string(n) + " of " + std::string(what));
  const std::string_view out(record_.body.data() + at_, n);
  at_ += n;
  return out;
}

Status RecordItems::header(Item& item) {
  const size_t from = at_;
  BP_ASSIGN(uint64_t kind, varint("the kind of an item"));
  if (kind > uint64_t(ItemKind::kRevived))
    return fault("kind " + std::to_string(kind), "0, 1 or 2");
  item = {};
  item.kind = ItemKind(kind);
  BP_ASSIGN(item.run_number, varint("a run number"));
  if (item.kind == ItemKind::kEntry) {
    const uint64_t number = record_.header.number;
    BP_ASSIGN(item.run_seq, varint("a run_seq"));
    BP_ASSIGN(uint64_t back, varint("the way back to the run's entry before"));
    if (back > number)
      return fault("a way back of " + std::to_string(back), "at most " + std::to_string(number));
    item.previous_commit = back == 0 ? 0 : number + 1 - back;
    BP_ASSIGN(uint64_t wall, varint("a time"));
    item.wall_ms =
        static_cast<int64_t>(uint64_t(record_.header.wall_ms) + uint64_t(unzigzag(wall)));
    BP_ASSIGN(uint64_t type, varint("a type"));
    if (type == 0 || type > UINT32_MAX)
      return fault("type " + std::to_string(type), "1 to 4294967295");
    item.type = uint32_t(type);
    BP_ASSIGN(uint64_t actor, varint("who must act next"));
    BP_ASSIGN(uint64_t by, varint("by when"));
    item.next = {Actor(actor > UINT8_MAX ? 0 : actor), int64_t(by)};
    if (by > uint64_t(INT64_MAX) || !sound(item.next)) {
      return fault("actor " + std::to_string(actor) + " by " + std::to_string(by),
                   "a known actor, with a limit where one must act");
    }
  }
  item.header = std::string_view(record_.body).substr(from, at_ - from);
  return {};
}

Status RecordItems::payload(Item& item) {
  BP_ASSIGN(uint64_t tag, varint("the size of a body"));
  item.erased = tag == 0;
  if (item.erased) {
    BP_ASSIGN(item.erased_hash, bytes(kHashBytes, "the hash of an erased body"));
    return {};
  }
  BP_ASSIGN(item.salt, bytes(kSaltBytes, "a salt"));
  BP_ASSIGN(item.mark, bytes(kMarkBytes, "a mark"));
  if (tag - 1 > record_.body.size())
    return fault("a body of " + std::to_string(tag - 1) + " bytes", "no more than there are");
  BP_ASSIGN(item.body, bytes(size_t(tag - 1), "a body"));
  return {};
}

Result<bool> RecordItems::next(Item& item) {
  if (record_.body.empty() || record_.body[0] < '\1' || record_.body[0] > '\2')
    return fault("no known format", "1 or 2");
  if (shrunk_) return false;
  if (index_ == record_.header.count) {
    if (at_ != record_.body.size())
      return fault(std::to_string(record_.body.size() - at_) + " further bytes", "the end");
    return false;
  }
  BP_TRY(header(item));
  BP_TRY(payload(item));
  ++index_;
  return true;
}

Entry to_entry(const Item& item) {
  Entry e;
  e.run_number = item.run_number;
  e.run_seq = item.run_seq;
  e.previous_commit = item.previous_commit;
  e.wall_ms = item.wall_ms;
  e.type = item.type;
  e.next = item.next;
  e.body.assign(item.body);
  e.body_hash.assign(item.erased_hash);
  return e;
}

Result<LogRecord> decode_record(const Record& record) {
  LogRecord out{record.header.number, record.header.wall_ms, {}};
  RecordItems items(record);
  Item item;
  while (true) {
    BP_ASSIGN(bool more, items.next(item));
    if (!more) return out;
    if (item.kind == ItemKind::kEntry) out.entries.push_back(to_entry(item));
  }
}

Result<std::vector<Entry>> history_of(const FetchRecord& fetch, uint64_t run_number,
                                      uint64_t last_commit, uint64_t after_run_seq) {
  std::vector<Entry> newest_first;
  for (uint64_t number = last_commit; number != 0;) {
    const std::string who =
        "run " + std::to_string(run_number) + " in commit " + std::to_string(number);
    BP_ASSIGN(const std::optional<Record> found, fetch(number));
    const Record record = found.value_or(Record{{}, {}, std::string(1, '\2')});
    RecordItems items(record);
    if (items.shrunk())
      return Error{ErrorCode::kNotFound, "the entries of " + who + " are no longer in the log", {}};
    std::vector<Entry> here;
    Item item;
    while (true) {
      BP_ASSIGN(bool more, items.next(item));
      if (!more) break;
      if (item.kind == ItemKind::kEntry && item.run_number == run_number)
        here.push_back(to_entry(item));
    }
    if (here.empty()) return Error{ErrorCode::kJournal, "there is no entry of " + who, {}};
    const uint64_t before = here.front().previous_commit;
    const bool reached = here.front().run_seq <= after_run_seq + 1;
    for (auto e = here.rbegin(); e != here.rend(); ++e) {
      if (e->run_seq > after_run_seq) newest_first.push_back(std::move(*e));
    }
    if (reached) break;
    if (before >= number) {
      return Error{
          ErrorCode::kJournal,
          "the entry of " + who + " before it is said to be in commit " + std::to_string(before),
          {}};
    }
    number = before;
  }
  std::reverse(newest_first.begin(), newest_first.end());
  return newest_first;
}

void encode_ended(const EndedRow& r, std::string& out) {
  out.push_back('\1');
  put_varint(r.run_number, out);
  put_varint(uint64_t(r.state), out);
  put_varint(zigzag(r.created_wall_ms), out);
  put_varint(zigzag_difference(r.ended_wall_ms, r.created_wall_ms), out);
  put_varint(r.last_commit, out);
  for (std::string_view field :
       {std::string_view(r.run_id), std::string_view(r.name), std::string_view(r.workflow),
        std::string_view(r.error_code), std::string_view(r.idempotency_key)}) {
    put_field(field, out);
  }
  put_varint(r.labels.size(), out);
  for (const auto& [key, value] : r.labels) {
    put_field(key, out);
    put_field(value, out);
  }
}

Result<EndedRow> decode_ended(std::string_view bytes) {
  size_t at = 1;
  EndedRow r;
  auto cut = [&] {
    return Error{ErrorCode::kJournal,
                 "the summary of an ended run is damaged at byte " + std::to_string(at) + " of " +
                     std::to_string(bytes.size()),
                 {}};
  };
  if (bytes.empty() || bytes[0] != '\1') return cut();
  uint64_t state = 0, created = 0, took = 0;
  for (uint64_t* v : {&r.run_number, &state, &created, &took, &r.last_commit}) {
    const auto number = get_varint(bytes, at);
    if (!number) return cut();
    *v = *number;
  }
  if (state > uint64_t(INT32_MAX)) return cut();
  r.state = int(state);
  r.created_wall_ms = unzigzag(created);
  r.ended_wall_ms = static_cast<int64_t>(uint64_t(r.created_wall_ms) + uint64_t(unzigzag(took)));
  for (std::string* field : {&r.run_id, &r.name, &r.workflow, &r.error_code, &r.idempotency_key}) {
    const auto text = get_field(bytes, at);
    if (!text) return cut();
    field->assign(*text);
  }
  const auto labels = get_varint(bytes, at);
  if (!labels || *labels > bytes.size()) return cut();
  for (uint64_t i = 0; i < *labels; ++i) {
    const auto key = get_field(bytes, at);
    const auto value = key ? get_field(bytes, at) : std::nullopt;
    if (!value) return cut();
    r.labels.emplace(*key, *value);
  }
  if (at != bytes.size()) return cut();
  return r;
}

}  // namespace bp::storage
