// PNG through libpng.
#include "benchmark/image.h"
#include "benchmark/orientation.h"

#ifdef EDGEDET_HAVE_PNG

#include <algorithm>
#include <csetjmp>
#include <cstring>

#include <png.h>

namespace edgedet::bench {

namespace {

struct Source {
  std::string_view bytes;
  std::size_t at;
};

// libpng reports errors by calling this; it must not return, and exceptions must not cross C code.
[[noreturn]] void on_error(png_structp png, png_const_charp message) {
  auto* text = static_cast<char*>(png_get_error_ptr(png));
  std::strncpy(text, message, 255);
  png_longjmp(png, 1);
}

void on_warning(png_structp /*png*/, png_const_charp /*message*/) {}

void read_bytes(png_structp png, png_bytep to, png_size_t size) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (size > source->bytes.size() - source->at) {
    png_error(png, "the file is truncated");
  }
  memcpy(to, source->bytes.data() + source->at, size);
  source->at += size;
}

// The EXIF block that ImageMagick stores as text: three lines of heading, then hexadecimal digits in lines.
std::string raw_profile(std::string_view text) {
  for (int line = 0; line < 3; ++line) {
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string bytes;
  std::size_t count = 0;
  for (const char c : text) {
    const std::size_t digit = kDigits.find(c);
    if (digit == std::string_view::npos) {
      continue;
    }
    if (count++ % 2 == 0) {
      bytes += static_cast<char>(digit << 4U);
    } else {
      bytes.back() = static_cast<char>(static_cast<unsigned char>(bytes.back()) | digit);
    }
  }
  return bytes;
}

// Everything with a destructor lives outside: longjmp skips destructors of the frames it leaves.
class Decoder {
 public:
  explicit Decoder(std::string_view bytes) : source_{bytes, 0} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, message_, on_error, on_warning);
    if (png_ != nullptr) {
      info_ = png_create_info_struct(png_);
    }
  }
  ~Decoder() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Each step returns false on an error of the library; message() says which.
  bool read_header() {
    if (png_ == nullptr || info_ == nullptr) {
      std::strncpy(message_, "not enough memory", sizeof(message_) - 1);
      return false;
    }
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return false;
    }
    png_set_read_fn(png_, &source_, read_bytes);
    png_read_info(png_, info_);
    png_get_IHDR(png_, info_, &width, &height, &depth, &colour, nullptr, nullptr, nullptr);
    return true;
  }

  bool read_rows(png_bytep* rows) {
    if (setjmp(png_jmpbuf(png_)) != 0) {
      return false;
    }
    if (colour == PNG_COLOR_TYPE_PALETTE) {
      png_set_palette_to_rgb(png_);
    }
    if ((colour & PNG_COLOR_MASK_COLOR) == 0) {
      if (depth < 8) {
        png_set_expand_gray_1_2_4_to_8(png_);
      }
      png_set_gray_to_rgb(png_);
    }
    png_set_strip_16(png_);
    png_set_strip_alpha(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    if (png_get_rowbytes(png_, info_) != std::size_t{3} * width) {
      png_error(png_, "unexpected row size");
    }
    png_read_image(png_, rows);
    png_read_end(png_, info_);
    return true;
  }

  // After read_rows, because metadata may follow the pixels. An empty view where there is none.
  std::string_view exif() {
    png_bytep bytes = nullptr;
    png_uint_32 size = 0;
    if (png_get_eXIf_1(png_, info_, &size, &bytes) == 0) {
      return {};
    }
    return {reinterpret_cast<const char*>(bytes), size};
  }
  std::string_view text(std::string_view key) {
    png_textp texts = nullptr;
    int count = 0;
    png_get_text(png_, info_, &texts, &count);
    for (int i = 0; i < count; ++i) {
      if (key == texts[i].key) {
        return texts[i].text;
      }
    }
    return {};
  }

  std::string message() const { return message_; }

  png_uint_32 width = 0;
  png_uint_32 height = 0;
  int depth = 0;
  int colour = 0;

 private:
  Source source_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  char message_[256] = {};
};

int orientation_of(Decoder& decoder) {
  constexpr std::string_view kHead("Exif\0\0", 6);
  int orientation = exif_orientation(decoder.exif());
  const std::string_view profile_text = decoder.text("Raw profile type exif");
  if (orientation == 0 && !profile_text.empty()) {
    const std::string profile = raw_profile(profile_text);
    const bool headed = profile.compare(0, kHead.size(), kHead) == 0;
    orientation = exif_orientation(std::string_view(profile).substr(headed ? kHead.size() : 0));
  }
  return orientation != 0 ? orientation : xmp_orientation(decoder.text("XML:com.adobe.xmp"));
}

}  // namespace

Decoded decode_png(std::string_view bytes, const std::string& name) {
  Decoder decoder(bytes);
  const auto check = [&](bool success) {
    if (!success) {
      fail(name, "damaged or unsupported PNG: " + decoder.message());
    }
  };
  check(decoder.read_header());
  check_size(decoder.width, decoder.height, name);
  if (decoder.depth == 16 && decoder.colour == PNG_COLOR_TYPE_GRAY) {
    fail(name,
         "one channel of 16 bits has no defined 8-bit rendering; scale the image to 8 bits as your sensor needs it");
  }
  Decoded decoded;
  Image& image = decoded.image;
  image.width = static_cast<std::int32_t>(decoder.width);
  image.height = static_cast<std::int32_t>(decoder.height);
  const std::size_t row_size = 3 * static_cast<std::size_t>(image.width);
  image.rgb.resize(row_size * static_cast<std::size_t>(image.height));
  std::vector<png_bytep> rows;
  for (std::size_t y = 0; y < static_cast<std::size_t>(image.height); ++y) {
    rows.push_back(image.rgb.data() + y * row_size);
  }
  check(decoder.read_rows(rows.data()));
  decoded.orientation = orientation_of(decoder);
  return decoded;
}

}  // namespace edgedet::bench

#else

namespace edgedet::bench {

Decoded decode_png(std::string_view /*bytes*/, const std::string& name) {
  fail(name,
       "this edgedet-bench was built without PNG; install libpng with its headers and build it again, or convert "
       "the file to PPM");
}

}  // namespace edgedet::bench

#endif
