document.querySelectorAll("table.sortable").forEach(function (table) {
  var heads = table.querySelectorAll("thead th[data-column]");
  var bodies = Array.prototype.map.call(table.tBodies, function (body) {
    return [body, Array.prototype.slice.call(body.rows)];
  });
  function key(row, column) {
    var cell = row.cells[column], value = cell.getAttribute("data-value");
    return value === null ? cell.textContent.trim() : value === "" ? NaN : Number(value);
  }
  function order(column, sign) {
    return function (a, b) {
      var x = key(a, column), y = key(b, column);
      if (typeof x === "string") { return sign * x.localeCompare(y, undefined, { numeric: true }); }
      if (isNaN(x) || isNaN(y)) { return isNaN(x) - isNaN(y); }
      return sign * (x - y);
    };
  }
  heads.forEach(function (head) {
    var button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    while (head.firstChild) { button.appendChild(head.firstChild); }
    head.appendChild(button);
    button.addEventListener("click", function () {
      var first = head.getAttribute("data-first") || "ascending", now = head.getAttribute("aria-sort");
      var other = first === "ascending" ? "descending" : "ascending";
      var next = now === null ? first : now === first ? other : null;
      heads.forEach(function (each) { each.removeAttribute("aria-sort"); });
      if (next) { head.setAttribute("aria-sort", next); }
      bodies.forEach(function (pair) {
        var fixed = pair[1].filter(function (row) { return row.className === "group"; });
        var rows = pair[1].filter(function (row) { return row.className !== "group"; });
        if (next) { rows.sort(order(Number(head.getAttribute("data-column")), next === "ascending" ? 1 : -1)); }
        fixed.concat(rows).forEach(function (row) { pair[0].appendChild(row); });
      });
    });
  });
});
