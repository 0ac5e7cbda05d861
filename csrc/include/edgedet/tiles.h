// Detection in images that are much larger than the network: in overlapping tiles, put together again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "edgedet/detector.h"
#include "edgedet/types.h"

namespace edgedet {

// A rectangle of an image, pixels.
struct Tile {
  std::int32_t x = 0;
  std::int32_t y = 0;
  std::int32_t width = 0;
  std::int32_t height = 0;
};

struct TileOptions {
  std::int32_t width = 0;   // of a tile in pixels, 0 = the network's; sides longer than the image's are cut to it
  std::int32_t height = 0;  // likewise
  double overlap = 0.2;     // of neighbours at the least: below 1 a share of the tile's sides, else whole pixels
  bool whole = true;        // the whole image is one more tile, for objects that no tile holds
  float match = 0.5F;       // see merge_tiles, in (0, 1]
};

// The most tiles of one image.
constexpr std::size_t kMaxTiles = 4096;

// The tiles of an image: all of one size, as few as cover it, their starts spread evenly, row by row; then the whole
// image, if that is wanted and there are others. For kNv12 all numbers are even (tiles shrink, overlaps grow by one).
// Throws Error(kInvalidInput) on sides below 1, an overlap that is not less than a tile, and more than kMaxTiles.
std::vector<Tile> plan_tiles(std::int32_t width, std::int32_t height, PixelFormat format, const TileOptions& options);

// One list out of the detections of each tile (in pixels of the tile): in pixels of the image, best first (ties: by
// tile, then by place in its list).
//
// Two boxes of different tiles and one label are compared where both tiles look, each clipped to that region: they
// agree if their IoU there is at least `match`, else they are apart, as are boxes of one tile, which saw them as two; a
// box that does not reach into the region says nothing. Going through all boxes, best first, each joins the groups that
// it agrees with, the best agreement first, unless a box of theirs and one of its own would be apart. A group is an
// object. A box is cut if it ends within 2 % of the
// tile at a border that is not the image's. The object's score is the best of its group, and boxes of less than half of
// it have no say: its box is that of the best one that is not cut, or else the hull. Last, pieces go: an object of
// which 80 % lie in another one of its label that was seen uncut, in a tile that shares pixels with that of its best
// box, while no tile saw both. The other one has to be better, or of half its score if of the piece only cut boxes are
// left.
//
// `tiles` and `found` are of one length. Throws Error(kInvalidInput) if not, on a score that is NaN, and on a `match`
// outside of (0, 1].
void merge_tiles(const std::vector<Tile>& tiles, std::int32_t width, std::int32_t height,
                 const std::vector<std::vector<Detection>>& found, float match, std::vector<Detection>& out);

// Detects in all tiles of `image` by one call of `detector`, which spreads them over its requests, and merges. The
// pixels are not copied for it. The detector's max_detections holds for each tile. `times` may be null; merging counts
// as decoding. Returns what ran. Throws Error.
std::shared_ptr<const RunInfo> detect_tiled(const Detector& detector, const ImageView& image,
                                            const TileOptions& options, std::vector<Detection>& out,
                                            StageTimes* times = nullptr, const ImageSource& source = {});

}  // namespace edgedet
