// Names and landmarks that the theme leaves to be wished for: what is seen on a button is its name for everybody.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll("summary[aria-label], .search-button-field[aria-label]")
    .forEach(element => element.removeAttribute("aria-label"));
  document.querySelectorAll("div.math, p:has(> math)")
    .forEach(element => element.scrollWidth > element.clientWidth && (element.tabIndex = 0));  // moved by keys, too
  document.querySelectorAll(".sidebar-primary-items__start > .sidebar-primary-item:first-child").forEach(element => {
    element.setAttribute("role", "region");
    element.setAttribute("aria-label", "Book");
  });
});
