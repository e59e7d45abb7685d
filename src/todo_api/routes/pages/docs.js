// Starts Swagger UI. With a development token, its user is authorized without pasting.
const schema = document.currentScript.dataset.schema;
const token = document.querySelector("meta[name=development-token]").content;

const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const applyColors = () => document.documentElement.classList.toggle("dark-mode", prefersDark.matches);
prefersDark.addEventListener("change", applyColors);
applyColors();
document.getElementById("development").hidden = !token;

// Swagger UI complains in the console about an array of UUIDs, for which it has no component.
const uuidInput = (system) => ({
  components: {
    JsonSchema_string_uuid: (props) =>
      system.React.createElement(system.getComponent("JsonSchema_string"), props),
  },
});

const ui = SwaggerUIBundle({
  url: schema,
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: !token,
  plugins: [uuidInput],
  tryItOutEnabled: true,
  onComplete: () => token && ui.preauthorizeApiKey("bearer", token),
});
