// JPEG through libjpeg-turbo, with its defaults (slow integer DCT, smooth upsampling), as Pillow uses it.
#include "benchmark/image.h"
#include "benchmark/orientation.h"

#ifdef EDGEDET_HAVE_JPEG

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include <jerror.h>
#include <jpeglib.h>  // needs <cstdio> before it

namespace edgedet::bench {

namespace {

// Progressive files with thousands of tiny scans take minutes to decode; no encoder writes more than a few dozen.
constexpr int kMaxScans = 200;

struct ErrorState {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

// libjpeg reports errors by calling this; it must not return, and exceptions must not cross C code.
[[noreturn]] void on_error(j_common_ptr info) {
  auto* state = reinterpret_cast<ErrorState*>(info->err);
  info->err->format_message(info, state->message);
  std::longjmp(state->jump, 1);
}

// Damaged data is decoded as well as possible, as Pillow does; data that ends early is an error.
void on_message(j_common_ptr info, int level) {
  if (level == -1 && info->err->msg_code == JWRN_JPEG_EOF) {
    on_error(info);
  }
}

void on_progress(j_common_ptr info) {
  auto* state = reinterpret_cast<ErrorState*>(info->err);
  if (info->is_decompressor != 0 && reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    std::snprintf(state->message, sizeof(state->message), "more than %d scans", kMaxScans);
    std::longjmp(state->jump, 1);
  }
}

std::string_view marker_bytes(jpeg_saved_marker_ptr marker) {
  return {reinterpret_cast<const char*>(marker->data), marker->data_length};
}

int orientation_of(jpeg_saved_marker_ptr markers) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr std::string_view kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  int exif = 0;
  int xmp = 0;
  for (jpeg_saved_marker_ptr marker = markers; marker != nullptr; marker = marker->next) {
    const std::string_view bytes = marker_bytes(marker);
    if (bytes.substr(0, kExif.size()) == kExif && exif == 0) {
      exif = exif_orientation(bytes.substr(kExif.size()));
    } else if (bytes.substr(0, kXmp.size()) == kXmp && xmp == 0) {
      xmp = xmp_orientation(bytes.substr(kXmp.size()));
    }
  }
  return exif != 0 ? exif : xmp;
}

// a * b / 255, rounded.
int times(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

// One row to RGB in place of the wider or narrower one of the decoder. CMYK is stored inverted.
void to_rgb(const std::uint8_t* from, int components, std::int32_t width, std::uint8_t* to) {
  for (std::int32_t x = 0; x < width; ++x) {
    const int black = components == 4 ? from[3] : 255;
    for (int channel = 0; channel < 3; ++channel) {
      const int level = from[components == 1 ? 0 : channel];
      to[channel] = static_cast<std::uint8_t>(components == 4 ? black - times(255 - level, black) : level);
    }
    from += components;
    to += 3;
  }
}

// Everything with a destructor lives outside: longjmp skips destructors of the frames it leaves.
class Decoder {
 public:
  Decoder() {
    info_.err = jpeg_std_error(&error_.manager);
    error_.manager.error_exit = on_error;
    error_.manager.emit_message = on_message;
    progress_.progress_monitor = on_progress;
  }
  ~Decoder() { jpeg_destroy_decompress(&info_); }
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  // Each step returns false on an error of the library; message() says which.
  bool read_header(std::string_view bytes) {
    if (setjmp(error_.jump) != 0) {
      return false;
    }
    jpeg_create_decompress(&info_);
    info_.progress = &progress_;
    jpeg_save_markers(&info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_mem_src(&info_, reinterpret_cast<const unsigned char*>(bytes.data()),
                 static_cast<unsigned long>(bytes.size()));
    jpeg_read_header(&info_, TRUE);
    return true;
  }

  bool start() {
    if (setjmp(error_.jump) != 0) {
      return false;
    }
    info_.out_color_space =
        info_.num_components == 1 ? JCS_GRAYSCALE : (info_.num_components == 4 ? JCS_CMYK : JCS_RGB);
    jpeg_start_decompress(&info_);
    return true;
  }

  bool read_row(std::uint8_t* row) {
    if (setjmp(error_.jump) != 0) {
      return false;
    }
    JSAMPROW rows[1] = {row};
    jpeg_read_scanlines(&info_, rows, 1);
    return true;
  }

  const jpeg_decompress_struct& info() const { return info_; }
  std::string message() const { return error_.message; }

 private:
  jpeg_decompress_struct info_{};
  jpeg_progress_mgr progress_{};
  ErrorState error_{};
};

}  // namespace

Decoded decode_jpeg(std::string_view bytes, const std::string& name) {
  Decoder decoder;
  const auto check = [&](bool success) {
    if (!success) {
      fail(name, "damaged or unsupported JPEG: " + decoder.message());
    }
  };
  check(decoder.read_header(bytes));
  const jpeg_decompress_struct& info = decoder.info();
  check_size(info.image_width, info.image_height, name);
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
    fail(name, "expected a JPEG of 1, 3 or 4 components, got " + std::to_string(info.num_components));
  }
  Decoded decoded;
  decoded.orientation = orientation_of(info.marker_list);
  check(decoder.start());
  Image& image = decoded.image;
  image.width = static_cast<std::int32_t>(info.output_width);
  image.height = static_cast<std::int32_t>(info.output_height);
  const std::size_t row_size = 3 * static_cast<std::size_t>(image.width);
  image.rgb.resize(row_size * static_cast<std::size_t>(image.height));
  std::vector<std::uint8_t> row(4 * static_cast<std::size_t>(image.width));
  for (std::size_t y = 0; y < static_cast<std::size_t>(image.height); ++y) {
    check(decoder.read_row(row.data()));
    to_rgb(row.data(), info.output_components, image.width, image.rgb.data() + y * row_size);
  }
  return decoded;
}

}  // namespace edgedet::bench

#else

namespace edgedet::bench {

Decoded decode_jpeg(std::string_view /*bytes*/, const std::string& name) {
  fail(name,
       "this edgedet-bench was built without JPEG; install libjpeg-turbo with its headers and build it again, "
       "or convert the file to PPM");
}

}  // namespace edgedet::bench

#endif
