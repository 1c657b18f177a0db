#include "engine/fetch/object_store.h"

#include <charconv>
#include <optional>

#include "engine/base/limits.h"
#include "engine/fetch/http_client.h"
#include "engine/fetch/listing.h"
#include "engine/fetch/par_url.h"

namespace bp::fetch {
namespace {

struct ContentRange {
  uint64_t first = 0, last = 0;
  std::optional<uint64_t> total;
};

// "bytes 0-99/1234" or "bytes 0-99/*" (RFC 9110, 14.4).
std::optional<ContentRange> parse_content_range(std::string_view text) {
  if (text.substr(0, 6) != "bytes ") return std::nullopt;
  const char* at = text.data() + 6;
  const char* const end = text.data() + text.size();
  ContentRange out;
  auto r = std::from_chars(at, end, out.first);
  if (r.ec != std::errc() || r.ptr == end || *r.ptr != '-') return std::nullopt;
  r = std::from_chars(r.ptr + 1, end, out.last);
  if (r.ec != std::errc() || r.ptr == end || *r.ptr != '/') return std::nullopt;
  at = r.ptr + 1;
  if (at != end && *at == '*' && at + 1 == end) return out;
  uint64_t total = 0;
  r = std::from_chars(at, end, total);
  if (r.ec != std::errc() || r.ptr != end) return std::nullopt;
  out.total = total;
  return out;
}

class ParStore final : public ObjectStore {
 public:
  ParStore(ParUrl url, StoreOptions options) : url_(std::move(url)), client_(std::move(options)) {}

  Result<std::vector<ObjectInfo>> list(const std::string& prefix, Deadline deadline) override {
    std::vector<ObjectInfo> out;
    std::string start;
    for (;;) {
      BP_ASSIGN(auto page, list_page(prefix, start, deadline));
      if (out.size() + page.objects.size() > static_cast<size_t>(limits::kObjectsMax)) {
        return Error{ErrorCode::kTooLarge,
                     "list " + url_.place + ": more than " + std::to_string(limits::kObjectsMax) +
                         " objects",
                     "Narrow it with `include` in the recipe"};
      }
      for (auto& o : page.objects) out.push_back(std::move(o));
      if (page.next_start.empty()) return out;
      // Names are listed in byte order: a page that does not go on would make this loop endless.
      if (page.next_start <= start) {
        return Error{
            ErrorCode::kCorruptData, "list " + url_.place + ": nextStartWith does not advance", {}};
      }
      start = page.next_start;
    }
  }

  Result<std::string> read(const std::string& name, uint64_t offset, uint64_t size,
                           Deadline deadline) override {
    if (size > static_cast<uint64_t>(limits::kRangeBytes) * 4) {
      return Error{ErrorCode::kTooLarge, "read of " + std::to_string(size) + " bytes at once", {}};
    }
    std::string out;
    out.reserve(size);
    BP_TRY(range(
        {name, 0, {}, {}}, false, offset, size,
        [&](std::string_view piece) -> Status {
          out.append(piece);
          return {};
        },
        deadline));
    return out;
  }

  Status stream(const ObjectInfo& object, uint64_t offset, uint64_t size,
                const std::function<Status(std::string_view)>& sink, Deadline deadline) override {
    return range(object, true, offset, size, sink, deadline);
  }

  std::string describe() const override { return url_.place; }

 private:
  Result<ListPage> list_page(const std::string& prefix, const std::string& start,
                             Deadline deadline) {
    HttpRequest request{url_.list_url(prefix, start), "list " + url_.place, {}, {}};
    std::string body;
    BP_TRY(client_.get(
        request, [](const HttpHead&) { return Status(); },
        [&](std::string_view piece) -> Status {
          if (body.size() + piece.size() > limits::kListPageBytes) {
            return Error{
                ErrorCode::kTooLarge,
                "a page holds more than " + std::to_string(limits::kListPageBytes) + " bytes",
                {}};
          }
          body.append(piece);
          return {};
        },
        deadline));
    auto page = parse_list_page(body);
    if (!page.ok()) return std::move(page).error().with_context(url_.place);
    return page;
  }

  // `sized`: object.size_bytes is known and must be the size of what is read.
  Status range(const ObjectInfo& object, bool sized, uint64_t offset, uint64_t size,
               const std::function<Status(std::string_view)>& sink, Deadline deadline) {
    if (size == 0) return {};
    const std::string what = "read \"" + object.name + "\" from " + url_.place;
    HttpRequest request{url_.object_url(object.name), what,
                        std::to_string(offset) + "-" + std::to_string(offset + size - 1),
                        object.etag};
    uint64_t got = 0;
    auto check_head = [&](const HttpHead& head) -> Status {
      if (head.status == 206) {
        auto r = parse_content_range(head.content_range);
        if (!r || r->first != offset || r->last != offset + size - 1 ||
            (sized && r->total && *r->total != object.size_bytes)) {
          return Error{ErrorCode::kCorruptData,
                       "the answer is for \"" + head.content_range + "\", asked was " +
                           request.range +
                           (sized ? " of " + std::to_string(object.size_bytes) : ""),
                       {}};
        }
        return {};
      }
      if (offset == 0 && head.content_length == static_cast<int64_t>(size)) return {};
      return Error{ErrorCode::kCorruptData,
                   "the store ignores ranges (HTTP " + std::to_string(head.status) + ")",
                   {}};
    };
    BP_TRY(client_.get(
        request, check_head,
        [&](std::string_view piece) -> Status {
          got += piece.size();
          if (got > size) return Error{ErrorCode::kCorruptData, "more bytes than asked for", {}};
          return sink(piece);
        },
        deadline));
    if (got != size) {
      return Error{ErrorCode::kHttpRetry,
                   what + ": cut off after " + std::to_string(got) + " of " + std::to_string(size) +
                       " bytes",
                   {}};
    }
    return {};
  }

  const ParUrl url_;
  HttpClient client_;
};

}  // namespace

Result<std::unique_ptr<ObjectStore>> ObjectStore::open(const Secret& par_url,
                                                       StoreOptions options) {
  BP_ASSIGN(auto url, ParUrl::parse(par_url));
  return std::unique_ptr<ObjectStore>(new ParStore(std::move(url), std::move(options)));
}

}  // namespace bp::fetch
