# examples.awk: takes the examples out of a document; see check_examples.sh.
#
#   -v script=F -v expected=F   writes the statements of all sql blocks to `script`, and to `expected` what they print. Both
#                               have a line "== line N" for each block, N being the line it begins at.
#   -v actual=F                 prints the document, with the output from F in its text blocks.

BEGIN {
  if (actual != "") {
    while ((getline line <actual) > 0) {
      if (line ~ /^== line [0-9]+$/) block = substr(line, 9)
      else output[block] = output[block] line "\n"
    }
  }
}

# Inside a block.
fence != "" && $0 == "```" {
  if (fence == "sql") waiting = first
  if (actual != "") {
    if (fence == "output") printf "%s", output[first]
    print
  }
  fence = ""
  next
}
fence == "sql" && actual == "" { print >script; next }
fence == "output" {
  if (actual == "") print >expected
  next
}

# Outside.
fence == "" && /^```/ {
  fence = "other"
  if ($0 == "```sql") {
    fence = "sql"
    first = NR
    if (actual == "") {
      if (!is_open) {
        printf ".open section_%d.db\n.load ./delta_vectors\n", NR >script
        is_open = 1
      }
      print ".print == line " NR >script
      print "== line " NR >expected
    }
  } else if ($0 == "```text" && waiting) {
    fence = "output"
  }
  waiting = 0
}
fence == "" && /^##? / { is_open = 0 }
fence == "" && !/^[ \t]*$/ { waiting = 0 }
actual != "" { print }
