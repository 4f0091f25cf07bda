# The one list of sources. Its order is the order of the single-file build, and a good order to read in.
#
# Files are found by looking, so a new one takes part without being named here. A name below only says where the file
# stands; files not named follow their directory's named ones, in alphabetical order. A name without a file is an error.

set(DV_CORE_ORDER
  core/simd/scalar.c core/simd/avx2.c core/simd/avx512.c core/simd/neon.c core/simd/wasm128.c core/simd/dispatch.c)

set(DV_EXT_ORDER
  ext/text.c)

# out = the named files, then the other files that the patterns find; all relative to the repository.
function(dv_find_sources out order)
  set(patterns ${ARGN})
  list(TRANSFORM patterns PREPEND "${CMAKE_CURRENT_SOURCE_DIR}/")
  file(GLOB found CONFIGURE_DEPENDS RELATIVE "${CMAKE_CURRENT_SOURCE_DIR}" ${patterns})
  list(SORT found)
  foreach(name IN LISTS ${order})
    if(NOT name IN_LIST found)
      message(FATAL_ERROR "cmake/sources.cmake names ${name}, which does not exist")
    endif()
  endforeach()
  set(files ${${order}} ${found})
  list(REMOVE_DUPLICATES files)
  set(${out} ${files} PARENT_SCOPE)
endfunction()

dv_find_sources(DV_CORE_SOURCES DV_CORE_ORDER core/*.c core/simd/*.c)
dv_find_sources(DV_EXT_SOURCES DV_EXT_ORDER ext/*.c)
dv_find_sources(DV_HEADERS "" core/*.h core/simd/*.h ext/*.h)
