// `node shoot.mjs CHROMIUM PAGE PICTURE` opens the page and takes a screenshot of all of it; it fails on any error there.
import { chromium } from 'playwright-core';

const [executablePath, page, path] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
try {
  const tab = await browser.newPage({ viewport: { width: 1632, height: 900 } });
  const errors = [];
  tab.on('pageerror', (error) => errors.push(error.message));
  await tab.goto(page);
  await tab.waitForSelector('section');
  await tab.evaluate(() => document.fonts.ready);
  await tab.screenshot({ path, fullPage: true });
  if (errors.length) {
    throw new Error(errors.join('\n'));
  }
} finally {
  await browser.close();
}
