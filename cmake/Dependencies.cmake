# cbq_dependencies: the libraries every program is linked with. All come from Debian packages (setup.sh).

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(HDF5 REQUIRED IMPORTED_TARGET hdf5)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)    # the patterns of byte-level vocabularies
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)  # their normalization
find_package(ZLIB REQUIRED)                                       # compressed data sets

# The OpenMP build of OpenBLAS, by its own folder: Debian's default alternative may be the pthread build, whose second
# thread pool fights with our OpenMP loops. It is not linked: kernels/matmul/blas.cpp loads it when it is needed (and says why).
find_library(OPENBLAS_LIBRARY NAMES openblas REQUIRED NO_DEFAULT_PATH
             PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp)
find_path(OPENBLAS_INCLUDE cblas.h REQUIRED NO_DEFAULT_PATH
          PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp)
add_library(openblas INTERFACE)
target_link_libraries(openblas INTERFACE ${CMAKE_DL_LIBS})
target_include_directories(openblas SYSTEM INTERFACE ${OPENBLAS_INCLUDE})
cmake_path(GET OPENBLAS_LIBRARY PARENT_PATH openblas_folder)
# By its soname: the name without a number is a part of the development package.
set_source_files_properties(kernels/matmul/blas.cpp PROPERTIES
  COMPILE_DEFINITIONS "CBQ_OPENBLAS=\"${openblas_folder}/libopenblas.so.0\"")

add_library(cbq_dependencies INTERFACE)
target_link_libraries(cbq_dependencies INTERFACE
  OpenMP::OpenMP_CXX openblas fmt::fmt nlohmann_json::nlohmann_json CLI11::CLI11
  PkgConfig::HDF5 PkgConfig::SENTENCEPIECE PkgConfig::PCRE2 PkgConfig::UTF8PROC ZLIB::ZLIB)

if(CBQ_CUDA)
  find_package(CUDAToolkit REQUIRED)
  target_link_libraries(cbq_dependencies INTERFACE CUDA::cudart CUDA::cublas CUDA::cublasLt CUDA::curand)
endif()
