// Signs in by the form of a page and reads who is greeted; then tries a host that no door leads to.
// The certificate is the test's own.
const { chromium } = require("/usr/lib/node_modules/playwright-core");

const [page_url, proxy] = process.argv.slice(1);

async function visit() {
  const browser = await chromium.launch({
    executablePath: "/usr/lib/chromium/chromium-headless-shell",
    proxy: { server: proxy, bypass: "<-loopback>" },
    args: ["--no-zygote", "--disable-gpu", "--disable-software-rasterizer"],
  });
  const page = await browser.newPage({ ignoreHTTPSErrors: true });
  page.setDefaultTimeout(20_000);
  await page.goto(page_url);
  await page.fill("input[name=user]", "customer");
  await page.click("button");
  await page.waitForSelector("h1");
  console.log(`greeting: ${await page.textContent("h1")}`);
  const png = await page.screenshot();
  console.log(`screenshot: ${png.subarray(1, 4)}`);
  const elsewhere = page.goto("https://evil.example/");
  console.log(`elsewhere: ${await elsewhere.catch((error) => error.message.split("\n")[0])}`);
  await browser.close();
}

visit().catch((error) => {
  console.log(`failed: ${error}`);
  // The browser is still there, and would be waited for.
  process.exit(1);
});
