#include "runtime/comm/tcp_link.h"

#include <sodium.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace bp::rt {
namespace {

constexpr size_t kLengthBytes = 4;
constexpr size_t kTagBytes = crypto_aead_chacha20poly1305_ietf_ABYTES;
constexpr size_t kFrameBytes = kLengthBytes + kFramePlainBytes + kTagBytes;

void put_length(unsigned char* at, uint32_t v) {
  for (int i = 0; i < 4; ++i) at[i] = static_cast<unsigned char>(v >> (8 * i));
}
uint32_t get_length(const unsigned char* at) {
  return at[0] | uint32_t{at[1]} << 8 | uint32_t{at[2]} << 16 | uint32_t{at[3]} << 24;
}

struct Nonce {
  unsigned char bytes[crypto_aead_chacha20poly1305_ietf_NPUBBYTES] = {};
  explicit Nonce(uint64_t frame) {
    for (int i = 0; i < 8; ++i) bytes[4 + i] = static_cast<unsigned char>(frame >> (8 * i));
  }
};

class TcpLink final : public Link {
 public:
  TcpLink(Fd socket, const LinkKeys& keys, std::string label)
      : socket_(std::move(socket)), keys_(keys), label_(std::move(label)), out_(kFrameBytes), in_(kFrameBytes) {}

  Result<size_t> try_write(std::span<const std::byte> data, bool more) override;
  Result<bool> try_flush() override;
  Result<size_t> try_read(std::span<std::byte> data) override;
  int poll_fd() const override { return socket_.get(); }

 private:
  void seal();
  Status push();
  Result<bool> open_frame();
  Error lost(int errno_value) const {
    return {ErrorCode::kPeerLost, "the connection to " + label_ + " broke: " + std::strerror(errno_value), {}};
  }

  Fd socket_;
  LinkKeys keys_;
  std::string label_;
  // Out: either plain text being collected (sealed_ == 0), or a sealed frame being sent.
  std::vector<unsigned char> out_;
  size_t plain_out_ = 0, sealed_ = 0, pushed_ = 0;
  uint64_t frames_out_ = 0;
  // In: in_[0, have_) as received; once a frame is opened its plain text is in_[read_at_, read_end_).
  std::vector<unsigned char> in_;
  size_t have_ = 0, read_at_ = 0, read_end_ = 0, frame_end_ = 0;
  uint64_t frames_in_ = 0;
};

void TcpLink::seal() {
  put_length(out_.data(), static_cast<uint32_t>(plain_out_));
  Nonce nonce(frames_out_++);
  unsigned char* text = out_.data() + kLengthBytes;
  crypto_aead_chacha20poly1305_ietf_encrypt(text, nullptr, text, plain_out_, out_.data(), kLengthBytes,
                                            nullptr, nonce.bytes, keys_.send.data());
  sealed_ = kLengthBytes + plain_out_ + kTagBytes;
  pushed_ = plain_out_ = 0;
}

// Sends what is sealed, as far as the kernel takes it.
Status TcpLink::push() {
  while (pushed_ < sealed_) {
    ssize_t n = ::send(socket_.get(), out_.data() + pushed_, sealed_ - pushed_, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return {};
    if (n < 0) return lost(errno);
    pushed_ += static_cast<size_t>(n);
  }
  sealed_ = pushed_ = 0;
  return {};
}

Result<size_t> TcpLink::try_write(std::span<const std::byte> data, bool more) {
  BP_TRY(push());
  if (sealed_ > 0) return size_t{0};
  const size_t n = std::min(data.size(), kFramePlainBytes - plain_out_);
  std::memcpy(out_.data() + kLengthBytes + plain_out_, data.data(), n);
  plain_out_ += n;
  if (!more || plain_out_ == kFramePlainBytes) {
    seal();
    BP_TRY(push());
  }
  return n;
}

Result<bool> TcpLink::try_flush() {
  BP_TRY(push());
  if (sealed_ == 0 && plain_out_ > 0) {
    seal();
    BP_TRY(push());
  }
  return sealed_ == 0;
}

// Receives until one whole frame is there and opens it; false when more must come.
Result<bool> TcpLink::open_frame() {
  if (frame_end_ > 0) {
    std::memmove(in_.data(), in_.data() + frame_end_, have_ - frame_end_);
    have_ -= frame_end_;
    frame_end_ = 0;
  }
  for (;;) {
    size_t frame = kLengthBytes;
    if (have_ >= kLengthBytes) {
      const uint32_t plain = get_length(in_.data());
      if (plain == 0 || plain > kFramePlainBytes) {
        return Error{ErrorCode::kUnauthorized,
                     label_ + " sent a frame of " + std::to_string(plain) + " bytes, allowed are 1 to " +
                         std::to_string(kFramePlainBytes),
                     {}};
      }
      frame = kLengthBytes + plain + kTagBytes;
      if (have_ >= frame) {
        Nonce nonce(frames_in_);
        unsigned char* text = in_.data() + kLengthBytes;
        if (crypto_aead_chacha20poly1305_ietf_decrypt(text, nullptr, nullptr, text, plain + kTagBytes,
                                                      in_.data(), kLengthBytes, nonce.bytes,
                                                      keys_.receive.data()) != 0) {
          return Error{ErrorCode::kUnauthorized,
                       "frame " + std::to_string(frames_in_) + " from " + label_ + " was changed on its way",
                       "Data between the ranks was damaged or forged: check the network between the nodes"};
        }
        ++frames_in_;
        read_at_ = kLengthBytes;
        read_end_ = kLengthBytes + plain;
        frame_end_ = frame;
        return true;
      }
    }
    ssize_t n = ::recv(socket_.get(), in_.data() + have_, in_.size() - have_, MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (n < 0) return lost(errno);
    if (n == 0) return Error{ErrorCode::kPeerLost, label_ + " closed its connection", {}};
    have_ += static_cast<size_t>(n);
  }
}

Result<size_t> TcpLink::try_read(std::span<std::byte> data) {
  if (read_at_ == read_end_) {
    BP_ASSIGN(bool opened, open_frame());
    if (!opened) return size_t{0};
  }
  const size_t n = std::min(data.size(), read_end_ - read_at_);
  std::memcpy(data.data(), in_.data() + read_at_, n);
  read_at_ += n;
  return n;
}

}  // namespace

std::unique_ptr<Link> make_tcp_link(Fd socket, const LinkKeys& keys, std::string label) {
  return std::make_unique<TcpLink>(std::move(socket), keys, std::move(label));
}

}  // namespace bp::rt
