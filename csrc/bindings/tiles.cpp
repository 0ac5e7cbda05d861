#include "bindings/tiles.h"

#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "bindings/arrays.h"

namespace py = pybind11;

namespace edgedet {
namespace {

using PyTile = std::tuple<std::int32_t, std::int32_t, std::int32_t, std::int32_t>;  // x, y, width, height
using FloatArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using IntArray = py::array_t<std::int32_t, py::array::c_style | py::array::forcecast>;

std::vector<PyTile> plan(std::int32_t width, std::int32_t height, const std::string& format,
                         const TileOptions& options) {
  std::vector<PyTile> tiles;
  for (const Tile& tile : plan_tiles(width, height, pixel_format(format), options)) {
    tiles.emplace_back(tile.x, tile.y, tile.width, tile.height);
  }
  return tiles;
}

py::tuple merge(const std::vector<PyTile>& tiles, std::int32_t width, std::int32_t height,
                const std::vector<std::tuple<FloatArray, FloatArray, IntArray>>& found, float match) {
  std::vector<Tile> ours;
  ours.reserve(tiles.size());
  for (const auto& [x, y, tile_width, tile_height] : tiles) {
    ours.push_back({x, y, tile_width, tile_height});
  }
  std::vector<std::vector<Detection>> lists;
  for (const auto& [boxes, scores, labels] : found) {
    const py::ssize_t rows = scores.size();
    if (boxes.size() != rows * 4 || labels.size() != rows) {
      refuse("found: expected boxes (N, 4), scores (N,) and labels (N,) of each tile, got " +
             std::string(py::str(boxes.attr("shape"))) + ", " + std::string(py::str(scores.attr("shape"))) + " and " +
             std::string(py::str(labels.attr("shape"))));
    }
    lists.emplace_back();
    for (py::ssize_t i = 0; i < rows; ++i) {
      const float* box = boxes.data() + i * 4;
      lists.back().push_back({box[0], box[1], box[2], box[3], scores.data()[i], labels.data()[i]});
    }
  }
  std::vector<Detection> out;
  {
    const py::gil_scoped_release release;
    merge_tiles(ours, width, height, lists, match, out);
  }
  return to_arrays(out);
}

}  // namespace

void bind_tiles(py::module_& module) {
  py::class_<TileOptions>(module, "TileOptions")
      .def(py::init([](std::int32_t width, std::int32_t height, double overlap, bool whole, float match) {
             return TileOptions{width, height, overlap, whole, match};
           }),
           py::kw_only(), py::arg("width") = 0, py::arg("height") = 0, py::arg("overlap") = 0.2,
           py::arg("whole") = true, py::arg("match") = 0.5F);
  module.def("plan_tiles", &plan, py::arg("width"), py::arg("height"), py::arg("format"), py::arg("options"));
  module.def("merge_tiles", &merge, py::arg("tiles"), py::arg("width"), py::arg("height"), py::arg("found"),
             py::arg("match") = 0.5F);
}

}  // namespace edgedet
