#include "edgedet/tiles.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>

#include "common/validate.h"

namespace edgedet {
namespace {

[[noreturn]] void refuse(const std::string& message) { throw Error(ErrorKind::kInvalidInput, message); }

// One axis of the plan, in units of `step` pixels.
struct Axis {
  std::int32_t size = 0;  // of a tile
  std::vector<std::int32_t> starts;
};

Axis plan_axis(const char* what, std::int32_t length, std::int32_t wanted, double overlap, std::int32_t step) {
  if (wanted < step) {
    refuse(std::string("tile ") + what + ": expected " + std::to_string(step) + " pixels or more, got " +
           std::to_string(wanted));
  }
  const double pixels = overlap < 1.0 ? overlap * wanted : overlap;
  if (!(overlap >= 0.0) || !(pixels < wanted)) {
    refuse("overlap: expected a share from 0 to below 1, or pixels below the tile's " + std::to_string(wanted) +
           ", got " + std::to_string(overlap));
  }
  const std::int32_t total = length / step;
  const std::int32_t size = std::min(wanted / step, total);
  // Of a tile that was cut to the image there is one.
  const auto shared = std::min(static_cast<std::int32_t>(std::ceil(pixels / step)), size - 1);
  const std::int32_t advance = size - shared;
  const std::int32_t count = 1 + (total - size + advance - 1) / advance;
  Axis axis;
  axis.size = size * step;
  for (std::int32_t i = 0; i < count; ++i) {
    const std::int64_t start = count == 1 ? 0 : static_cast<std::int64_t>(i) * (total - size) / (count - 1);
    axis.starts.push_back(static_cast<std::int32_t>(start) * step);
  }
  return axis;
}

ImageView view_of(const ImageView& image, const Tile& tile) {
  const std::ptrdiff_t pixel = image.format == PixelFormat::kRgb || image.format == PixelFormat::kBgr ? 3 : 1;
  ImageView view = image;
  view.data = image.data + tile.y * image.stride + tile.x * pixel;
  view.width = tile.width;
  view.height = tile.height;
  if (image.format == PixelFormat::kNv12) {
    view.uv = image.uv + tile.y / 2 * image.uv_stride + tile.x;
  }
  return view;
}

}  // namespace

std::vector<Tile> plan_tiles(std::int32_t width, std::int32_t height, PixelFormat format, const TileOptions& options) {
  const std::int32_t step = format == PixelFormat::kNv12 ? 2 : 1;
  if (width < step || height < step) {
    refuse("expected image sides of " + std::to_string(step) + " or more, got " + std::to_string(width) + "x" +
           std::to_string(height));
  }
  const Axis columns = plan_axis("width", width, options.width, options.overlap, step);
  const Axis rows = plan_axis("height", height, options.height, options.overlap, step);
  const std::size_t count = columns.starts.size() * rows.starts.size();
  if (count >= kMaxTiles) {
    refuse("tiles: expected fewer than " + std::to_string(kMaxTiles) + ", got " + std::to_string(count) + " of " +
           std::to_string(columns.size) + "x" + std::to_string(rows.size) + " for " + std::to_string(width) + "x" +
           std::to_string(height) + "; take larger tiles or a smaller overlap");
  }
  std::vector<Tile> tiles;
  tiles.reserve(count + 1);
  for (const std::int32_t y : rows.starts) {
    for (const std::int32_t x : columns.starts) {
      tiles.push_back({x, y, columns.size, rows.size});
    }
  }
  if (options.whole && count > 1) {
    tiles.push_back({0, 0, width, height});
  }
  return tiles;
}

std::shared_ptr<const RunInfo> detect_tiled(const Detector& detector, const ImageView& image,
                                            const TileOptions& options, std::vector<Detection>& out, StageTimes* times,
                                            const ImageSource& source) {
  validate(image);
  TileOptions wanted = options;
  if (wanted.width == 0 || wanted.height == 0) {
    // Of what runs now; another bundle may have been swapped in when the tiles are run, which they fit as well.
    const PreprocessSpec network = detector.running()->model.preprocess;
    wanted.width = wanted.width == 0 ? network.width : wanted.width;
    wanted.height = wanted.height == 0 ? network.height : wanted.height;
  }
  const std::vector<Tile> tiles = plan_tiles(image.width, image.height, image.format, wanted);
  std::vector<ImageView> views;
  views.reserve(tiles.size());
  for (const Tile& tile : tiles) {
    views.push_back(view_of(image, tile));
  }
  std::vector<std::vector<Detection>> found;
  StageTimes spent;
  std::shared_ptr<const RunInfo> ran = detector.detect(views.data(), views.size(), found, &spent, source);
  const auto begin = std::chrono::steady_clock::now();
  merge_tiles(tiles, image.width, image.height, found, options.match, out);
  spent.decode += std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  if (times != nullptr) {
    *times = spent;
  }
  return ran;
}

}  // namespace edgedet
