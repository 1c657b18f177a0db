#include "storage/chain_check.h"

namespace bp::storage {

std::string Finding::to_line() const {
  std::string line = "commit " + std::to_string(commit);
  if (run_number != 0) line += ", run " + std::to_string(run_number);
  line += ": " + what;
  if (!found.empty()) line += ": found " + found;
  if (!expected.empty()) line += ", expected " + expected;
  return line;
}

ChainCheck::ChainCheck(uint64_t anchor_number, std::string anchor_root)
    : number_(anchor_number), root_(std::move(anchor_root)), complete_(anchor_number == 0) {}

void ChainCheck::find(uint64_t commit, uint64_t run, std::string what, std::string found,
                      std::string expected) {
  if (!full())
    findings_.push_back({commit, run, std::move(what), std::move(found), std::move(expected)});
}

void ChainCheck::item(const Record& record, const Item& i) {
  if (i.kind == ItemKind::kEnded || i.kind == ItemKind::kRevived) {
    last_.erase(i.run_number);
    return;
  }
  ++entries_;
  if (i.run_number == 0) return;
  auto known = last_.find(i.run_number);
  if (known == last_.end()) {
    if (complete_ && i.previous_commit != 0 && i.previous_commit >= record.header.number)
      find(record.header.number, i.run_number, "its entry hangs on a later commit",
           std::to_string(i.previous_commit), "an earlier one");
    last_[i.run_number] = {i.run_seq, record.header.number};
    return;
  }
  if (i.run_seq != known->second.run_seq + 1) {
    find(record.header.number, i.run_number, "entries are missing", std::to_string(i.run_seq),
         "entry " + std::to_string(known->second.run_seq + 1));
  } else if (i.previous_commit != known->second.commit) {
    find(record.header.number, i.run_number,
         "entry " + std::to_string(i.run_seq) + " does not hang on the one before it",
         "commit " + std::to_string(i.previous_commit), std::to_string(known->second.commit));
  }
  known->second = {i.run_seq, record.header.number};
}

void ChainCheck::items(const Record& r) {
  ++commits_;
  RecordItems items(r);
  if (items.shrunk()) complete_ = false;
  Item i;
  while (true) {
    Result<bool> more = items.next(i);
    if (!more) return find(r.header.number, 0, more.error().message, {}, {});
    if (!*more) return;
    if (!i.erased) {
      const auto h = salted_hash(i.salt, i.body);
      const std::string_view mark(h.data(), kMarkBytes);
      if (mark != i.mark) {
        find(r.header.number, i.run_number,
             i.kind == ItemKind::kEntry
                 ? "the body of entry " + std::to_string(i.run_seq) + " was altered: its hash"
                 : "the summary of the run was altered: its hash",
             hex(mark), hex(i.mark));
      }
    }
    item(r, i);
  }
}

void ChainCheck::part(const Record& r) {
  last_.clear();
  items(r);
}

void ChainCheck::record(const Record& r) {
  const uint64_t number = r.header.number;
  if (number != number_ + 1) {
    find(number, 0, "commits are missing before it", std::to_string(number),
         std::to_string(number_ + 1));
    last_.clear();
  }
  number_ = number;
  items(r);
  Result<std::string> digest = digest_of(r);
  if (digest) {
    const std::string root = root_of(root_, r.header, *digest);
    if (root != r.root) find(number, 0, "it breaks the chain: its root", hex(r.root), hex(root));
  }
  root_ = r.root;
}

void ChainCheck::end(uint64_t newest) {
  if (number_ != newest)
    find(number_, 0, "it is the last one", std::to_string(number_), std::to_string(newest));
}

}  // namespace bp::storage
