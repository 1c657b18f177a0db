#include <unistd.h>

#include <cerrno>

#include "storage/export.h"
#include "storage/varint.h"

namespace bp::storage {
namespace {

constexpr size_t kReadAtOnce = 1 << 20;
constexpr size_t kColumnsMax = 64;

const unsigned char* raw(std::string_view s) {
  return reinterpret_cast<const unsigned char*>(s.data());
}

Error fault(uint64_t at, const std::string& found, const std::string& expected) {
  return {ErrorCode::kJournal,
          "export, byte " + std::to_string(at) + ": found " + found + ", expected " + expected,
          "The file is damaged: export again"};
}

class Reader {
 public:
  Reader(const ReadBytes& read, const ExportVisitor& visit) : read_(read), visit_(visit) {
    crypto_generichash_init(&hash_, nullptr, 0, kHashBytes);
  }
  Status run();

 private:
  Result<std::string> take(uint64_t n);
  Result<uint64_t> size();
  Status record(std::string_view bytes);
  Status row(std::string_view bytes);
  Status end(std::string_view bytes, const std::string& hash_before);
  std::string hash_now() const {
    crypto_generichash_state copy = hash_;
    std::string out(kHashBytes, '\0');
    crypto_generichash_final(&copy, reinterpret_cast<unsigned char*>(out.data()), out.size());
    return out;
  }

  const ReadBytes& read_;
  const ExportVisitor& visit_;
  crypto_generichash_state hash_;
  uint64_t at_ = 0, frame_at_ = 0, frames_ = 0;
};

// Memory grows with what is really there, not with what a size promises.
Result<std::string> Reader::take(uint64_t n) {
  std::string out;
  while (out.size() < n) {
    const size_t from = out.size();
    const size_t ask = size_t(std::min<uint64_t>(n - from, kReadAtOnce));
    out.resize(from + ask);
    BP_ASSIGN(size_t got, read_(out.data() + from, ask));
    at_ += got;
    if (got < ask)
      return fault(at_, "the end of the file", std::to_string(ask - got) + " bytes more");
  }
  crypto_generichash_update(&hash_, raw(out), out.size());
  return out;
}

Result<uint64_t> Reader::size() {
  std::string bytes;
  for (int i = 0; i < 10; ++i) {
    BP_ASSIGN(std::string b, take(1));
    bytes += b;
    if ((b[0] & 0x80) == 0) break;
  }
  size_t at = 0;
  const auto v = get_varint(bytes, at);
  if (!v || *v == 0 || *v > kExportFrameMax)
    return fault(frame_at_, v ? "a frame of " + std::to_string(*v) + " bytes" : "no number",
                 "1 to " + std::to_string(kExportFrameMax));
  return *v;
}

Status Reader::record(std::string_view bytes) {
  size_t at = 1;
  Record r;
  uint64_t wall = 0;
  for (uint64_t* v : {&r.header.number, &r.header.replay_from, &wall, &r.header.count,
                      &r.header.last_run_number}) {
    const auto number = get_varint(bytes, at);
    if (!number || *number > uint64_t(INT64_MAX) * (v == &wall ? 2 : 1) + (v == &wall))
      return fault(frame_at_, "no number", "the header of a record");
    *v = *number;
  }
  r.header.wall_ms = unzigzag(wall);
  if (bytes.size() - at <= kHashBytes || bytes.size() - at > kRecordBytesMax)
    return fault(frame_at_, std::to_string(bytes.size() - at) + " bytes", "a root and a body");
  r.root = bytes.substr(at, kHashBytes);
  r.body = bytes.substr(at + kHashBytes);
  if (Result<std::string> digest = digest_of(r); !digest)  // every item can be read
    return std::move(digest).error().with_context("export, byte " + std::to_string(frame_at_));
  return visit_.record(r);
}

Status Reader::row(std::string_view bytes) {
  size_t at = 1;
  const auto table = get_field(bytes, at);
  if (!table) return fault(frame_at_, "no field", "the name of a table");
  std::vector<ExportColumn> columns;
  while (at < bytes.size()) {
    ExportColumn c;
    const auto kind = static_cast<unsigned char>(bytes[at++]);
    if (kind > ExportColumn::kBytes || columns.size() == kColumnsMax)
      return fault(frame_at_,
                   "column " + std::to_string(columns.size()) + " of kind " + std::to_string(kind),
                   "kinds 0 to 3, at most 64");
    c.kind = ExportColumn::Kind(kind);
    if (c.kind == ExportColumn::kInteger) {
      const auto v = get_varint(bytes, at);
      if (!v) return fault(frame_at_, "no number", "an integer column");
      c.integer = unzigzag(*v);
    } else if (c.kind != ExportColumn::kNull) {
      const auto v = get_field(bytes, at);
      if (!v) return fault(frame_at_, "no field", "a text or bytes column");
      c.bytes = *v;
    }
    columns.push_back(c);
  }
  return visit_.row(*table, columns);
}

Status Reader::end(std::string_view bytes, const std::string& hash_before) {
  size_t at = 1;
  const auto frames = get_varint(bytes, at);
  if (!frames || *frames != frames_)
    return fault(frame_at_, frames ? std::to_string(*frames) + " frames" : "no number",
                 std::to_string(frames_));
  if (bytes.substr(at) != hash_before)
    return fault(frame_at_, "hash " + hex(bytes.substr(at)), hex(hash_before));
  char further = 0;
  BP_ASSIGN(size_t more, read_(&further, 1));
  if (more != 0) return fault(at_, "further bytes", "the end of the file");
  return {};
}

Status Reader::run() {
  BP_ASSIGN(std::string head, take(kExportMagic.size() + 1));
  const char kind = head.back();
  if (head.compare(0, kExportMagic.size(), kExportMagic) != 0)
    return fault(0, "another file", "an export of a journal (version 1)");
  if (kind != '\1' && kind != '\2')
    return fault(kExportMagic.size(), "kind " + std::to_string(kind), "1 or 2");
  BP_TRY(visit_.begin(kind == '\2'));
  while (true) {
    frame_at_ = at_;
    const std::string hash_before = hash_now();
    BP_ASSIGN(uint64_t n, size());
    BP_ASSIGN(std::string bytes, take(n));
    switch (bytes[0]) {
      case 0:
        return end(bytes, hash_before);
      case 1:
        BP_TRY(record(bytes));
        break;
      case 2:
        BP_TRY(row(bytes));
        break;
      default:
        return fault(frame_at_, "tag " + std::to_string(bytes[0]), "0, 1 or 2");
    }
    ++frames_;
  }
}

}  // namespace

Result<ExportWriter> ExportWriter::create(const std::string& path, bool one_run) {
  ExportWriter w;
  w.path_ = path;
  w.file_.reset(std::fopen(path.c_str(), "wbxe"));
  if (!w.file_) return errno_error("create " + path, errno);
  crypto_generichash_init(&w.hash_, nullptr, 0, kHashBytes);
  BP_TRY(w.put(std::string(kExportMagic) + (one_run ? '\2' : '\1')));
  return w;
}

Status ExportWriter::put(const std::string& bytes) {
  crypto_generichash_update(&hash_, raw(bytes), bytes.size());
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size())
    return errno_error("write " + path_, errno);
  return {};
}

Status ExportWriter::frame(const std::string& bytes) {
  if (bytes.size() > kExportFrameMax)
    return Error{ErrorCode::kTooLarge, "a frame of " + std::to_string(bytes.size()) + " bytes", {}};
  std::string size;
  put_varint(bytes.size(), size);
  BP_TRY(put(size));
  BP_TRY(put(bytes));
  ++frames_;
  return {};
}

Status ExportWriter::record(const Record& r) {
  std::string out(1, '\1');
  put_varint(r.header.number, out);
  put_varint(r.header.replay_from, out);
  put_varint(zigzag(r.header.wall_ms), out);
  put_varint(r.header.count, out);
  put_varint(r.header.last_run_number, out);
  out += r.root;
  out += r.body;
  return frame(out);
}

Status ExportWriter::row(const std::string& table, const Statement& s) {
  std::string out(1, '\2');
  put_field(table, out);
  for (int i = 0; i < sqlite3_column_count(s.get()); ++i) {
    switch (sqlite3_column_type(s.get(), i)) {
      case SQLITE_NULL:
        out.push_back(ExportColumn::kNull);
        break;
      case SQLITE_INTEGER:
        out.push_back(ExportColumn::kInteger);
        put_varint(zigzag(s.int_at(i)), out);
        break;
      case SQLITE_TEXT:
        out.push_back(ExportColumn::kText);
        put_field(s.bytes_at(i), out);
        break;
      default:
        out.push_back(ExportColumn::kBytes);
        put_field(s.bytes_at(i), out);
    }
  }
  return frame(out);
}

Status ExportWriter::end() {
  crypto_generichash_state copy = hash_;
  std::string hash(kHashBytes, '\0');
  crypto_generichash_final(&copy, reinterpret_cast<unsigned char*>(hash.data()), hash.size());
  std::string out(1, '\0');
  put_varint(frames_, out);
  BP_TRY(frame(out + hash));
  if (std::fflush(file_.get()) != 0 || ::fsync(::fileno(file_.get())) != 0)
    return errno_error("write " + path_, errno);
  return {};
}

Status read_export(const ReadBytes& read, const ExportVisitor& visit) {
  return Reader(read, visit).run();
}

}  // namespace bp::storage
