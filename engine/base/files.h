// Small-file helpers that keep their promises: bounded reads, atomic durable writes.
#pragma once
#include <string>
#include <string_view>

#include "engine/base/result.h"

namespace bp {
/// Whole file; kTooLarge above `max_bytes`, kNotFound, kPermission, kIo.
Result<std::string> read_file(const std::string& path, size_t max_bytes);
/// Writes a temporary file beside `path`, fsyncs it, renames it over `path`, fsyncs the folder.
Status write_file_atomic(const std::string& path, std::string_view data, unsigned mode = 0600);
/// mkdir -p; every folder that it makes gets `mode`.
Status make_dirs(const std::string& path, unsigned mode = 0700);
/// Removes a tree without following symbolic links; no error when it does not exist.
Status remove_tree(const std::string& path);
}  // namespace bp
