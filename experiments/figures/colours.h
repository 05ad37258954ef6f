// Colours of charts.
#pragma once

#include <cstddef>
#include <string>

namespace cbq {

/// From dark (0) to bright (1), of evenly growing lightness, so that it can be read without colour:
/// eight colours of viridis (Smith & van der Walt 2015) and straight lines between them. Values
/// outside [0, 1] get the colour of the nearer end.
std::string sequential_colour(double part);

/// Of series number `i`, each distinct for most kinds of colour blindness, on white and on dark
/// paper (after Okabe & Ito 2008, somewhat brighter). They come again after the last one.
std::string series_colour(size_t i);

}  // namespace cbq
