// How the detections of overlapping tiles become those of the image; the rule is in edgedet/tiles.h.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <unordered_map>
#include <utility>

#include "edgedet/tiles.h"

namespace edgedet {
namespace {

constexpr float kBorder = 0.02F;  // of a tile's side: a box that ends so near to its border is cut
constexpr float kTrusted = 0.5F;  // of the best score of a group: what others need to have a say in its box
constexpr float kCovered = 0.8F;  // of an object: what lies in the one that it is a piece of

struct Rect {
  float x0 = 0.F;
  float y0 = 0.F;
  float x1 = 0.F;
  float y1 = 0.F;
};

Rect intersection(const Rect& a, const Rect& b) {
  return {std::max(a.x0, b.x0), std::max(a.y0, b.y0), std::min(a.x1, b.x1), std::min(a.y1, b.y1)};
}

Rect hull(const Rect& a, const Rect& b) {
  return {std::min(a.x0, b.x0), std::min(a.y0, b.y0), std::max(a.x1, b.x1), std::max(a.y1, b.y1)};
}

float area(const Rect& rect) { return std::max(0.F, rect.x1 - rect.x0) * std::max(0.F, rect.y1 - rect.y0); }

Rect rect_of(const Tile& tile) {
  return {static_cast<float>(tile.x), static_cast<float>(tile.y), static_cast<float>(tile.x + tile.width),
          static_cast<float>(tile.y + tile.height)};
}

// A detection of a tile, in pixels of the image.
struct Seen {
  Rect box;
  float score = 0.F;
  std::int32_t label = 0;
  std::size_t tile = 0;
  std::size_t place = 0;  // in the list of its tile
  bool cut = false;
};

bool is_cut(const Detection& box, const Tile& tile, std::int32_t width, std::int32_t height) {
  const float margin_x = kBorder * static_cast<float>(tile.width);
  const float margin_y = kBorder * static_cast<float>(tile.height);
  return (tile.x > 0 && box.x0 <= margin_x) || (tile.y > 0 && box.y0 <= margin_y) ||
         (tile.x + tile.width < width && box.x1 >= static_cast<float>(tile.width) - margin_x) ||
         (tile.y + tile.height < height && box.y1 >= static_cast<float>(tile.height) - margin_y);
}

// What is one object, by index into Merge::seen_, best first.
struct Group {
  std::vector<std::size_t> members;
  std::size_t whole = 0;  // the member that gives the box, if has_whole
  bool has_whole = false;
  Rect box;
};

class Merge {
 public:
  Merge(const std::vector<Tile>& tiles, std::int32_t width, std::int32_t height,
        const std::vector<std::vector<Detection>>& found, float match)
      : match_(match), near_(tiles.size()) {
    for (const Tile& tile : tiles) {
      areas_.push_back(rect_of(tile));
    }
    for (std::size_t a = 0; a < tiles.size(); ++a) {
      for (std::size_t b = 0; b < tiles.size(); ++b) {
        if (a != b && area(intersection(areas_[a], areas_[b])) > 0.F) {
          near_[a].push_back(b);
        }
      }
    }
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      for (std::size_t i = 0; i < found[t].size(); ++i) {
        const Detection& one = found[t][i];
        const Rect& at = areas_[t];
        seen_.push_back({{one.x0 + at.x0, one.y0 + at.y0, one.x1 + at.x0, one.y1 + at.y0},
                         one.score,
                         one.label,
                         t,
                         i,
                         is_cut(one, tiles[t], width, height)});
      }
    }
    std::sort(seen_.begin(), seen_.end(), [](const Seen& a, const Seen& b) {
      return a.score != b.score ? a.score > b.score : a.tile != b.tile ? a.tile < b.tile : a.place < b.place;
    });
    group_of_.resize(seen_.size());
    groups_.resize(seen_.size());
  }

  void run(std::vector<Detection>& out) {
    for (std::size_t i = 0; i < seen_.size(); ++i) {
      place(i);
    }
    for (Group& group : groups_) {
      if (!group.members.empty()) {
        choose_box(group);
      }
    }
    out.clear();
    // A group bears the number of its best member, so this is best first.
    for (const Group& group : groups_) {
      if (!group.members.empty() && !is_part(group)) {
        const Seen& best = seen_[group.members.front()];
        out.push_back({group.box.x0, group.box.y0, group.box.x1, group.box.y1, best.score, best.label});
      }
    }
  }

 private:
  // IoU where both tiles look; below 0 if one of the boxes is not to be seen there.
  float agreement(const Seen& a, const Seen& b) const {
    const Rect region = intersection(areas_[a.tile], areas_[b.tile]);
    const Rect left = intersection(a.box, region);
    const Rect right = intersection(b.box, region);
    const float left_area = area(left);
    const float right_area = area(right);
    if (!(left_area > 0.F) || !(right_area > 0.F)) {
      return -1.F;
    }
    const float common = area(intersection(left, right));
    return common / (left_area + right_area - common);
  }

  bool apart(const Seen& a, const Seen& b) const {
    if (a.tile == b.tile) {
      return true;
    }
    const float iou = agreement(a, b);
    return iou >= 0.F && iou < match_;
  }

  bool apart(const Group& a, const Group& b) const {
    for (const std::size_t i : a.members) {
      for (const std::size_t j : b.members) {
        if (apart(seen_[i], seen_[j])) {
          return true;
        }
      }
    }
    return false;
  }

  static std::uint64_t key(std::size_t tile, std::int32_t label) {
    return (static_cast<std::uint64_t>(tile) << 32U) | static_cast<std::uint32_t>(label);
  }

  // The boxes of a tile and a label that have been placed.
  const std::vector<std::size_t>& placed(std::size_t tile, std::int32_t label) const {
    static const std::vector<std::size_t> none;
    const auto found = placed_.find(key(tile, label));
    return found == placed_.end() ? none : found->second;
  }

  // Box `i`, all better ones having been placed.
  void place(std::size_t i) {
    const Seen& seen = seen_[i];
    std::vector<std::pair<float, std::size_t>> agreeing;
    for (const std::size_t tile : near_[seen.tile]) {
      for (const std::size_t j : placed(tile, seen.label)) {
        const float iou = agreement(seen, seen_[j]);
        if (iou >= match_) {
          agreeing.emplace_back(-iou, j);
        }
      }
    }
    std::sort(agreeing.begin(), agreeing.end());
    std::size_t own = i;
    groups_[i].members.push_back(i);
    group_of_[i] = i;
    for (const auto& [unused, j] : agreeing) {
      const std::size_t other = group_of_[j];
      if (other != own && !apart(groups_[own], groups_[other])) {
        own = join(own, other);
      }
    }
    placed_[key(seen.tile, seen.label)].push_back(i);
  }

  // Into the one with the better best member; returns its number.
  std::size_t join(std::size_t a, std::size_t b) {
    const auto [to, from] = std::minmax(a, b);
    std::vector<std::size_t> all;
    std::merge(groups_[to].members.begin(), groups_[to].members.end(), groups_[from].members.begin(),
               groups_[from].members.end(), std::back_inserter(all));
    for (const std::size_t i : groups_[from].members) {
      group_of_[i] = to;
    }
    groups_[to].members = std::move(all);
    groups_[from].members.clear();
    return to;
  }

  void choose_box(Group& group) const {
    const Seen& best = seen_[group.members.front()];
    group.box = best.box;
    for (const std::size_t i : group.members) {
      if (seen_[i].score < kTrusted * best.score) {
        break;  // as are all that follow
      }
      if (!seen_[i].cut) {
        group.whole = i;
        group.has_whole = true;
        group.box = seen_[i].box;
        return;
      }
      group.box = hull(group.box, seen_[i].box);
    }
  }

  bool share_a_tile(const Group& a, const Group& b) const {
    return std::any_of(a.members.begin(), a.members.end(), [&](std::size_t i) {
      return std::any_of(b.members.begin(), b.members.end(),
                         [&](std::size_t j) { return seen_[i].tile == seen_[j].tile; });
    });
  }

  // Whether it is a piece of an object that another tile saw whole.
  bool is_part(const Group& group) const {
    const Seen& best = seen_[group.members.front()];
    for (const std::size_t tile : near_[best.tile]) {
      for (const std::size_t j : placed(tile, best.label)) {
        const Group& other = groups_[group_of_[j]];
        if (other.has_whole && other.whole == j &&
            (group.has_whole ? other.members.front() < group.members.front()
                             : seen_[other.members.front()].score >= kTrusted * best.score) &&
            area(intersection(group.box, other.box)) >= kCovered * area(group.box) && !share_a_tile(group, other)) {
          return true;
        }
      }
    }
    return false;
  }

  float match_;
  std::vector<Rect> areas_;  // of the tiles
  std::vector<Seen> seen_;   // best first
  std::unordered_map<std::uint64_t, std::vector<std::size_t>> placed_;
  std::vector<std::vector<std::size_t>> near_;  // for each tile those that share pixels with it
  std::vector<std::size_t> group_of_;
  std::vector<Group> groups_;  // by the number of the best member; empty where there is none
};

}  // namespace

void merge_tiles(const std::vector<Tile>& tiles, std::int32_t width, std::int32_t height,
                 const std::vector<std::vector<Detection>>& found, float match, std::vector<Detection>& out) {
  if (tiles.size() != found.size()) {
    throw Error(ErrorKind::kInvalidInput, "expected detections of " + std::to_string(tiles.size()) + " tiles, got " +
                                              std::to_string(found.size()));
  }
  if (!(match > 0.F && match <= 1.F)) {
    throw Error(ErrorKind::kInvalidInput,
                "match: expected an IoU above 0, at the most 1, got " + std::to_string(match));
  }
  for (const std::vector<Detection>& list : found) {
    for (const Detection& one : list) {
      if (std::isnan(one.score)) {
        throw Error(ErrorKind::kInvalidInput, "expected scores in [0, 1], got NaN");  // it has no place in an order
      }
    }
  }
  Merge(tiles, width, height, found, match).run(out);
}

}  // namespace edgedet
