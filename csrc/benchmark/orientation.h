// EXIF orientation: where cameras say which way up the picture is.
#pragma once

#include <string_view>

#include "benchmark/image.h"

namespace edgedet::bench {

// Orientation in a TIFF structure (the body of an EXIF block, without "Exif\0\0"); 0 if it has none or is damaged.
int exif_orientation(std::string_view tiff);

// Orientation in an XMP packet; 0 if it has none.
int xmp_orientation(std::string_view xmp);

// The picture the right way up.
Image oriented(Image image, int orientation);

}  // namespace edgedet::bench
