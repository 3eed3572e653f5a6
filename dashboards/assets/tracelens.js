// What all pages need in the browser.
window.dash_clientside = window.dash_clientside || {};
window.dash_clientside.tracelens = {
  clicked: (n) => Boolean(n),
};

// The tables follow the page's colour scheme, which Mantine keeps on the root element.
(() => {
  const root = document.documentElement;
  const follow = () => {
    document.body.dataset.agThemeMode = root.dataset.mantineColorScheme || "light";
  };
  new MutationObserver(follow).observe(root, {
    attributes: true,
    attributeFilter: ["data-mantine-color-scheme"],
  });
  follow();
})();
