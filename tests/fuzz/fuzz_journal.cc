// Parsers of the journal: the first byte chooses. 0: the body of a record (its count in the second
// byte); 1: an export file; 2: the summary of an ended run. What parses survives a second trip.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "storage/export.h"

using namespace bp;
using namespace bp::storage;

namespace {

void must(bool ok) {
  if (!ok) std::abort();
}

// Erasing whatever can be read keeps the digest, and what is left can be read again.
void check_record(const Record& record) {
  const auto digest = digest_of(record);
  if (!digest.ok()) {
    must(digest.error().code == ErrorCode::kJournal);
    return;
  }
  for (const bool shrink : {false, true}) {
    size_t erased = 0;
    Record less = record;
    auto body = erase_items(
        record, [](const Item& i) { return i.run_number % 2 == 0; }, shrink, erased);
    must(body.ok());
    less.body = std::move(body).value();
    const auto again = digest_of(less);
    must(again.ok() && *again == *digest);
  }
  must(decode_record(record).ok());
}

void check_summary(std::string_view bytes) {
  const auto row = decode_ended(bytes);
  if (!row.ok()) return;
  std::string out;
  encode_ended(*row, out);
  const auto again = decode_ended(out);
  must(again.ok() && again->run_id == row->run_id && again->labels == row->labels &&
       again->ended_wall_ms == row->ended_wall_ms);
}

void check_export(std::string_view bytes) {
  const ReadBytes read = [&](char* to, size_t n) -> Result<size_t> {
    const size_t got = std::min(n, bytes.size());
    std::memcpy(to, bytes.data(), got);
    bytes.remove_prefix(got);
    return got;
  };
  ExportVisitor visit;
  visit.begin = [](bool) { return Status(); };
  visit.record = [](const Record& r) -> Status {
    check_record(r);
    return {};
  };
  visit.row = [](std::string_view, const std::vector<ExportColumn>&) { return Status(); };
  const Status done = read_export(read, visit);
  must(done.ok() || done.error().code == ErrorCode::kJournal);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 3 == 1) {
    check_export(rest);
  } else if (data[0] % 3 == 2) {
    check_summary(rest);
  } else {
    Record record;
    record.header = {1000, 900, 1'700'000'000'000, static_cast<unsigned char>(rest[0]), 50};
    record.root.assign(kHashBytes, 'r');
    record.body.assign(rest.substr(1));
    check_record(record);
  }
  return 0;
}
