// What the commands share: printing, reading input, waiting for a deployment. Internal to
// engine/cli.
#pragma once
#include <string>

#include "bp/v1/control.pb.h"
#include "engine/cli/commands.h"
#include "engine/cli/session.h"

namespace bp::cli {

/// Prints the error, or the problems of `info` one by one, and returns its exit code. With --json
/// also as JSON on standard output.
int fail(const Options& o, const Error& error, const v1::ErrorInfo* info = nullptr);

/// A line (or two, with its body) of `bp history`.
std::string history_line(const Options& o, const v1::HistoryEntry& entry);

/// One line on standard output.
void print_line(const std::string& text);

/// A whole file, or standard input for "-", of at most `max_bytes`. kTooLarge, kNotFound, ...
Result<std::string> read_input(const std::string& path, size_t max_bytes);

/// Waits with progress (on standard error; as JSON lines on standard output with --json) until the
/// run serves
/// (`until_ready`) or rests.
Result<v1::RunView> wait_for(const Options& o, Session& session, const std::string& id,
                             bool until_ready);

/// 0 when it serves, succeeded, or was brought to an end on purpose; else 1 after printing why.
int report_end(const Options& o, const v1::RunView& run);

/// "2026-11-23 14:00:05.123" (UTC); "-" of 0.
std::string time_text(int64_t wall_ms);

/// Whether standard error is a terminal that can redraw lines.
bool terminal();

}  // namespace bp::cli
