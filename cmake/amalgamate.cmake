# amalgamate.cmake: the whole library as two files, for those who compile it into their own program.
#
#   cmake -DROOT=<repository> -DOUT=<directory> -DSOURCES="core/a.c;ext/b.c" -DVERSION=0.1.0 -P amalgamate.cmake
#
# writes OUT/delta_vectors.c, which needs no other file, and OUT/delta_vectors.h, a copy of the public header.
#
# The sources follow each other in the order given. An #include "..." of one of our headers is replaced by the header
# the first time and dropped after that; #include <...>, and "sqlite3.h" and the like, stay as they are.
#
# What the sources must keep to, because here they are one translation unit:
#   - statics, types and macros have names that are unique in the library (or a file #undefs its macros at its end);
#   - headers have include guards and are included without a condition around the #include: the one place where a
#     header is inlined must be one that everybody compiles;
#   - a header means the same wherever it is included: none that is configured by macros and included twice;
#   - feature macros (_POSIX_C_SOURCE and so on) are set by the build, not by a file: the first #include decides.
# The tests compile the result with all warnings as errors, load it, and link it.
cmake_minimum_required(VERSION 3.25)

set(output "${OUT}/delta_vectors.c")
set(our_directories "${ROOT}/core" "${ROOT}/core/simd" "${ROOT}/ext")

# path = our header that `name` means in a file of `directory`; "" if it is not ours.
function(find_ours path name directory)
  foreach(candidate IN LISTS directory our_directories)
    file(REAL_PATH "${candidate}/${name}" file)
    if(EXISTS "${file}")
      set(${path} "${file}" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${path} "" PARENT_SCOPE)
endfunction()

# Appends one file to the output, its headers inlined. Text stays in quoted strings: C code is full of semicolons and
# brackets, which a CMake list would not survive.
function(append_file file)
  get_property(done GLOBAL PROPERTY DONE)
  if("${file}" IN_LIST done)
    return()
  endif()
  set_property(GLOBAL APPEND PROPERTY DONE "${file}")

  cmake_path(GET file PARENT_PATH directory)
  cmake_path(RELATIVE_PATH file BASE_DIRECTORY "${ROOT}" OUTPUT_VARIABLE title)
  file(READ "${file}" rest)
  file(APPEND "${output}" "\n/************** ${title} **************/\n")
  while("${rest}" MATCHES "(^|\n)[ \t]*#[ \t]*include[ \t]*\"([^\"\n]+)\"[^\n]*")
    set(line "${CMAKE_MATCH_0}")
    set(name "${CMAKE_MATCH_2}")
    string(FIND "${rest}" "${line}" at)
    string(SUBSTRING "${rest}" 0 ${at} before)
    string(LENGTH "${line}" length)
    math(EXPR after "${at} + ${length}")
    string(SUBSTRING "${rest}" ${after} -1 rest)
    file(APPEND "${output}" "${before}")
    find_ours(header "${name}" "${directory}")
    if(header)
      append_file("${header}")
    else()
      file(APPEND "${output}" "${line}")
    endif()
  endwhile()
  file(APPEND "${output}" "${rest}")
endfunction()

file(WRITE "${output}"
  "/*\n * delta_vectors ${VERSION} as a single file, made from the sources named below by cmake/amalgamate.cmake.\n"
  " * Loadable: cc -O2 -ffp-contract=off -fPIC -shared -fvisibility=hidden delta_vectors.c -o delta_vectors.so -lm\n"
  " * Linked:   cc -O2 -ffp-contract=off -DSQLITE_CORE -c delta_vectors.c\n */\n"
  "#ifndef DELTA_VECTORS_VERSION\n#define DELTA_VECTORS_VERSION \"${VERSION}\"\n#endif\n")
foreach(source IN LISTS SOURCES)
  file(REAL_PATH "${ROOT}/${source}" file)
  append_file("${file}")
endforeach()
configure_file("${ROOT}/ext/delta_vectors.h" "${OUT}/delta_vectors.h" COPYONLY)
