# summary.awk: reads the JUnit files that ctest wrote and closes a test run.
#
# A program that says how many checks it made (a line of libcheck, or "N passed, N failed") counts as many; any other
# counts as one. A program that ends badly without having reported a failure counts as one failure more. Prints the
# closing lines of the programs, a line a suite, and at the end the sum of all.
#   -v extra_failed=N   builds that failed, of which ctest does not know
function attribute(name, value) {
  value = $0
  if (!sub(".* " name "=\"", "", value)) return ""
  sub("\".*", "", value)
  return value
}

FNR == 1 {
  preset = FILENAME
  sub("/[^/]*$", "", preset)
  sub(".*/", "", preset)
}

/<testcase / {
  name = attribute("name")
  status = attribute("status")
  passed = failed = 0
  closing = ""
}

{ sub(/.*<system-out>/, ""); sub(/<\/system-out>.*/, "") }

match($0, /^[0-9]+%: Checks: [0-9]+, Failures: [0-9]+, Errors: [0-9]+/) {
  closing = substr($0, RSTART, RLENGTH)
  split(closing, count, /[^0-9]+/) # percent, checks, failures, errors
  passed += count[2] - count[3] - count[4]
  failed += count[3] + count[4]
}

/^[0-9]+ passed, [0-9]+ failed$/ {
  closing = $0
  passed += $1
  failed += $3
}

/<\/testcase>/ {
  if (status != "run" && failed == 0) failed++
  if (status == "run" && passed + failed == 0) passed++
  if (closing != "") printf "  %s %s: %s\n", preset, name, closing
  suite = preset " " name
  sub("/.*", "", suite)
  if (!(suite in suite_passed)) suites[++n_suites] = suite
  suite_passed[suite] += passed
  suite_failed[suite] += failed
  if (failed) failures[++n_failures] = preset " " name (status == "run" || status == "fail" ? "" : " (not run)")
}

END {
  failed = extra_failed
  passed = 0
  print ""
  for (i = 1; i <= n_suites; i++) {
    suite = suites[i]
    printf "%-20s %6d passed, %d failed\n", suite ":", suite_passed[suite], suite_failed[suite]
    passed += suite_passed[suite]
    failed += suite_failed[suite]
  }
  if (extra_failed) print "FAILED building: see above"
  for (i = 1; i <= n_failures; i++) print "FAILED " failures[i]
  if (passed + failed == 0) print "no test has such a name"
  print ""
  printf "%d passed, %d failed\n", passed, failed
  exit failed > 0 || passed == 0
}
