// Tiles through the public headers alone: plans, views, merging. The rule of merging is tested in tests/test_tiles.py.
#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "edgedet/tiles.h"
#include "tiny_bundle.h"

using namespace edgedet;  // NOLINT(google-build-using-namespace)

namespace {

bool available() {
  const std::vector<BackendInfo> all = backends();
  return std::any_of(all.begin(), all.end(),
                     [](const BackendInfo& info) { return info.name == "openvino" && info.available; });
}

ImageView view_of(const std::vector<std::uint8_t>& pixels, int width, int height) {
  ImageView view;
  view.data = pixels.data();
  view.width = width;
  view.height = height;
  view.stride = std::ptrdiff_t{3} * width;
  return view;
}

}  // namespace

TEST(tiles_cover_an_image) {
  TileOptions options;
  options.width = 60;
  options.height = 40;
  options.overlap = 20;
  const std::vector<Tile> tiles = plan_tiles(100, 60, PixelFormat::kRgb, options);
  CHECK(tiles.size() == 5);
  CHECK(tiles[3].x == 40 && tiles[3].y == 20 && tiles[3].width == 60 && tiles[3].height == 40);
  CHECK(tiles[4].x == 0 && tiles[4].y == 0 && tiles[4].width == 100 && tiles[4].height == 60);
  options.whole = false;
  CHECK(plan_tiles(100, 60, PixelFormat::kRgb, options).size() == 4);
}

TEST(a_tile_of_the_networks_size_is_the_default) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  test::write_bundle(folder, test::tiny_network());
  const Detector detector(folder.path());
  const int width = 3 * test::kSide;
  const int height = 2 * test::kSide;
  const std::vector<std::uint8_t> pixels = test::picture(width, height, 1);
  const ImageView image = view_of(pixels, width, height);
  TileOptions options;
  options.overlap = 0;
  options.whole = false;

  // The same from copies of the tiles.
  std::vector<std::vector<std::uint8_t>> copies;
  std::vector<ImageView> views;
  std::vector<Tile> tiles;
  for (int row = 0; row < 2; ++row) {
    for (int column = 0; column < 3; ++column) {
      const Tile tile{column * test::kSide, row * test::kSide, test::kSide, test::kSide};
      std::vector<std::uint8_t> copy(test::kPixels);
      for (int y = 0; y < test::kSide; ++y) {
        std::memcpy(copy.data() + std::ptrdiff_t{3} * test::kSide * y,
                    image.data + (tile.y + y) * image.stride + std::ptrdiff_t{3} * tile.x, 3 * test::kSide);
      }
      copies.push_back(std::move(copy));
      views.push_back(view_of(copies.back(), test::kSide, test::kSide));
      tiles.push_back(tile);
    }
  }
  std::vector<std::vector<Detection>> parts;
  detector.detect(views.data(), views.size(), parts);
  std::vector<Detection> expected;
  merge_tiles(tiles, width, height, parts, options.match, expected);

  std::vector<Detection> found;
  StageTimes times;
  const auto ran = detect_tiled(detector, image, options, found, &times);
  CHECK(ran->model.name == detector.info().name);
  CHECK(times.inference > 0.0);
  CHECK(found.size() == expected.size() && found.size() > 10);
  CHECK(std::equal(found.begin(), found.end(), expected.begin(), [](const Detection& a, const Detection& b) {
    return a.x0 == b.x0 && a.y0 == b.y0 && a.x1 == b.x1 && a.y1 == b.y1 && a.score == b.score && a.label == b.label;
  }));
}

TEST(a_null_image_is_refused) {
  if (!available()) {
    return;
  }
  const test::TemporaryFolder folder;
  test::write_bundle(folder, test::tiny_network());
  const Detector detector(folder.path());
  std::vector<Detection> found;
  CHECK_THROWS(ErrorKind::kInvalidInput, "null", detect_tiled(detector, ImageView{}, {}, found));
}
