#include <string>

#include "check.h"
#include "common/sha256.h"

using edgedet::Sha256;

namespace {

std::string digest(const std::string& text) {
  Sha256 hash;
  hash.update(text.data(), text.size());
  return hash.hex_digest();
}

}  // namespace

// FIPS 180-4 examples and NIST's long-message vector.
TEST(sha256_nist_vectors) {
  CHECK(digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(
      digest("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrst"
             "nopqrstu") == "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  CHECK(digest(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

// Lengths around the block and the padding, fed in uneven pieces: the same digest as at once.
TEST(sha256_pieces) {
  for (const std::size_t length : {1U, 55U, 56U, 57U, 63U, 64U, 65U, 119U, 120U, 128U, 1000U}) {
    std::string text(length, '\0');
    for (std::size_t i = 0; i < length; ++i) {
      text[i] = static_cast<char>('a' + i % 23);
    }
    Sha256 pieces;
    for (std::size_t begin = 0, size = 1; begin < length; begin += size, size = size * 3 % 71 + 1) {
      const std::string piece = text.substr(begin, size);
      pieces.update(piece.data(), piece.size());
    }
    CHECK(pieces.hex_digest() == digest(text));
  }
}
