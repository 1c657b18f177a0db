#include "tests/sim/disk.h"

#include <algorithm>
#include <cstring>

namespace bp::sim {

const char* name_of(Tail tail) {
  static constexpr const char* kNames[] = {"kept", "lost", "torn", "reordered"};
  return kNames[static_cast<int>(tail)];
}

void Disk::Content::resize(int64_t to) {
  const size_t pages_wanted = size_t((to + kPageBytes - 1) / kPageBytes);
  const int64_t inside = to % kPageBytes;
  pages.resize(pages_wanted);
  if (to < size && inside != 0 && pages.back()) {
    auto copy = std::make_shared<Page>(*pages.back());
    std::memset(copy->data() + inside, 0, size_t(kPageBytes - inside));
    pages.back() = std::move(copy);
  }
  size = to;
}

void Disk::Content::write(int64_t at, const char* data, int64_t bytes) {
  if (bytes > 0 && at + bytes > size) resize(at + bytes);
  while (bytes > 0) {
    auto& page = pages[size_t(at / kPageBytes)];
    const int64_t inside = at % kPageBytes, n = std::min(bytes, kPageBytes - inside);
    if (!page) {
      page = std::make_shared<Page>();
      page->fill(0);
    } else if (page.use_count() > 1) {
      page = std::make_shared<Page>(*page);
    }
    std::memcpy(page->data() + inside, data, size_t(n));
    at += n, data += n, bytes -= n;
  }
}

int64_t Disk::Content::read(int64_t at, char* out, int64_t bytes) const {
  const int64_t there = std::clamp<int64_t>(size - at, 0, bytes);
  for (int64_t done = 0; done < there;) {
    const int64_t inside = (at + done) % kPageBytes;
    const int64_t n = std::min(there - done, kPageBytes - inside);
    const auto& page = pages[size_t((at + done) / kPageBytes)];
    if (page) {
      std::memcpy(out + done, page->data() + inside, size_t(n));
    } else {
      std::memset(out + done, 0, size_t(n));
    }
    done += n;
  }
  std::memset(out + there, 0, size_t(bytes - there));
  return there;
}

// Copies of a disk share their files until one of them changes something.
Disk::File& Disk::own(const std::string& name) {
  auto& file = files_[name];
  if (!file) file = std::make_shared<File>();
  auto durable = durable_names_.find(name);
  const bool both = durable != durable_names_.end() && durable->second == file;
  if (file.use_count() > (both ? 2 : 1)) {
    file = std::make_shared<File>(*file);
    if (both) durable->second = file;
  }
  return *file;
}

void Disk::create(const std::string& name) {
  if (!exists(name)) own(name);
}

void Disk::remove(const std::string& name) { files_.erase(name); }

int64_t Disk::size(const std::string& name) const {
  auto it = files_.find(name);
  return it == files_.end() ? 0 : it->second->now.size;
}

int64_t Disk::read(const std::string& name, int64_t at, char* out, int64_t bytes) const {
  auto it = files_.find(name);
  if (it != files_.end()) return it->second->now.read(at, out, bytes);
  std::memset(out, 0, size_t(bytes));
  return 0;
}

void Disk::write(const std::string& name, int64_t at, const char* data, int64_t bytes) {
  File& file = own(name);
  file.now.write(at, data, bytes);
  file.unsynced.push_back({at, std::string(data, size_t(bytes)), false});
}

void Disk::truncate(const std::string& name, int64_t size) {
  File& file = own(name);
  file.now.resize(size);
  file.unsynced.push_back({size, {}, true});
}

void Disk::sync(const std::string& name) {
  File& file = own(name);
  for (const Change& change : file.unsynced) {
    file.durable.resize(change.truncate ? change.at
                                        : std::max(file.durable.size,
                                                   change.at + int64_t(change.bytes.size())));
  }
  for (const Change& change : file.unsynced) {
    if (change.truncate) continue;
    const int64_t last = std::min<int64_t>(change.at + int64_t(change.bytes.size()), file.now.size);
    for (int64_t p = change.at / kPageBytes; p * kPageBytes < last; ++p)
      file.durable.pages[size_t(p)] = file.now.pages[size_t(p)];
  }
  // A page that was cut off and grew again lost what a shorter file had on it.
  const bool cut = std::any_of(file.unsynced.begin(), file.unsynced.end(),
                               [](const Change& c) { return c.truncate; });
  if (cut) file.durable = file.now;
  file.unsynced.clear();
}

void Disk::sync_names() { durable_names_ = files_; }

bool Disk::unsynced() const {
  if (files_.size() != durable_names_.size()) return true;
  for (const auto& [name, file] : files_) {
    if (!file->unsynced.empty() || !durable_names_.count(name)) return true;
  }
  return false;
}

std::vector<std::string> Disk::names() const {
  std::vector<std::string> all;
  for (const auto& [name, file] : files_) all.push_back(name);
  return all;
}

std::string Disk::contents(const std::string& name) const {
  std::string bytes(size_t(size(name)), '\0');
  read(name, 0, bytes.data(), int64_t(bytes.size()));
  return bytes;
}

void Disk::apply(Content& content, const Change& change, int64_t bytes) {
  if (change.truncate) return content.resize(change.at);
  content.write(change.at, change.bytes.data(), bytes);
}

Disk::Content Disk::leave(const File& file, Tail tail, std::mt19937_64& random) {
  if (tail == Tail::kKept) return file.now;
  Content left = file.durable;
  if (tail == Tail::kLost) return left;
  // Up to a sector's end: sectors lie at multiples of 512 in the file, not in the write.
  auto cut = [&](const Change& c) {
    const int64_t end = c.at + int64_t(c.bytes.size());
    const int64_t sectors = (end - 1) / kSectorBytes - c.at / kSectorBytes;
    if (sectors <= 0) return int64_t{0};
    const int64_t stop = (c.at / kSectorBytes + 1 + int64_t(random() % uint64_t(sectors)));
    return std::min(end, stop * kSectorBytes) - c.at;
  };
  if (tail == Tail::kTorn) {
    if (file.unsynced.empty()) return left;
    const size_t whole = random() % file.unsynced.size();
    for (size_t i = 0; i < whole; ++i)
      apply(left, file.unsynced[i], int64_t(file.unsynced[i].bytes.size()));
    const Change& last = file.unsynced[whole];
    if (!last.truncate && !last.bytes.empty()) apply(left, last, cut(last));
    return left;
  }
  const uint64_t share = 1 + random() % 7;  // of 8: from nearly none to nearly all
  for (const Change& c : file.unsynced) {
    if (random() % 8 >= share) continue;
    const bool torn = !c.truncate && !c.bytes.empty() && random() % 4 == 0;
    apply(left, c, torn ? cut(c) : int64_t(c.bytes.size()));
  }
  return left;
}

Disk Disk::after_crash(Tail tail, std::mt19937_64& random) const {
  Disk found;
  // A new name may be there although its folder was not synced, and a deleted one be back.
  const bool new_names = tail == Tail::kKept || (tail != Tail::kLost && random() % 2 == 0);
  for (const auto& [name, file] : new_names ? files_ : durable_names_) {
    auto copy = std::make_shared<File>();
    copy->now = copy->durable = leave(*file, tail, random);
    found.files_[name] = std::move(copy);
  }
  found.sync_names();
  return found;
}

}  // namespace bp::sim
