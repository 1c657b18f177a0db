// The portable form of a journal, for other programs and for keeping: no SQLite in it.
//
//   file    := "bpjexp1\n" kind frame* end          kind: 01 all, 02 one run
//   frame   := varint(size) bytes[size]             bytes := tag rest
//   record  := 01 number replay_from zigzag(wall_ms) count last_run_number root[32] body
//   row     := 02 field(table) column*              column := 00 | 01 zigzag | 02 field | 03 field
//   end     := frame with bytes := 00 frames hash   frames: how many before it; hash: BLAKE2b-256
//   of
//                                                   all bytes of the file before this frame
// Numbers are varints, field := varint(size) bytes; body: see record.h. Columns are null, integer,
// text, bytes, in the order of the table. Of one run, the items of others are hashes.
// Errors: kJournal with the byte, what was found, what was expected. Thread: any, one at a time.
#pragma once
#include <sodium.h>

#include <cstdio>

#include "storage/record.h"
#include "storage/sqlite_db.h"

namespace bp::storage {

inline constexpr std::string_view kExportMagic = "bpjexp1\n";
inline constexpr uint64_t kExportFrameMax = uint64_t{1} << 30;

class ExportWriter {
 public:
  static Result<ExportWriter> create(const std::string& path, bool one_run);
  ExportWriter(ExportWriter&&) = default;
  Status record(const Record& record);
  /// The row that `s` stands on.
  Status row(const std::string& table, const Statement& s);
  Status end();

 private:
  struct Close {
    void operator()(FILE* f) const { std::fclose(f); }
  };
  ExportWriter() = default;
  Status put(const std::string& bytes);
  Status frame(const std::string& bytes);
  std::string path_;
  std::unique_ptr<FILE, Close> file_;
  crypto_generichash_state hash_;
  uint64_t frames_ = 0;
};

/// One column of a row.
struct ExportColumn {
  enum Kind : uint8_t { kNull, kInteger, kText, kBytes } kind = kNull;
  int64_t integer = 0;
  std::string_view bytes;
};
struct ExportVisitor {
  std::function<Status(bool one_run)> begin;
  std::function<Status(const Record&)> record;
  std::function<Status(std::string_view table, const std::vector<ExportColumn>&)> row;
};
/// Gives bytes until the end; less than asked for only there.
using ReadBytes = std::function<Result<size_t>(char* to, size_t n)>;
/// The whole file, bounded by what is there; nothing is trusted before its frame was read, and the
/// caller must throw away what it got when the end frame does not fit.
Status read_export(const ReadBytes& read, const ExportVisitor& visit);

}  // namespace bp::storage
