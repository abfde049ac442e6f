import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command line tools one after the other in one JVM, which takes a tenth of the time
 * of a JVM for each. Reads lines {"tool": CLASS, "args": [..], "in": TEXT}, answers each with
 * a line {"code": N, "out": TEXT, "err": TEXT}.
 */
public final class Tools {
    /** A tool ends by this where it would end the JVM. */
    private static final class Exited extends Error {
        Exited() {
            super("exit", null, false, false);
        }
    }

    /** What the tool said first: some catch Exited and then say 1. */
    private static Integer exitCode;

    /** What the tool wants done when the JVM ends: some only stop there. */
    private static final List<Runnable> hooks = new ArrayList<>();

    /** Tools count in static fields: a run loads their classes anew, and shares the libraries. */
    private static final class Fresh extends URLClassLoader {
        Fresh(URL[] jars) {
            super(jars, Tools.class.getClassLoader());
        }

        @Override
        protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
            if (!name.startsWith("org.apache.kafka.tools.")) {
                return super.loadClass(name, resolve);
            }
            synchronized (getClassLoadingLock(name)) {
                Class<?> loaded = findLoadedClass(name);
                return loaded != null ? loaded : findClass(name);
            }
        }
    }

    public static void main(String[] args) throws Exception {
        Exit.setExitProcedure((code, message) -> exit(code));
        Exit.setHaltProcedure((code, message) -> exit(code));
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
        List<URL> jars = new ArrayList<>();
        for (String path : System.getProperty("java.class.path").split(File.pathSeparator)) {
            jars.add(new File(path).toURI().toURL());
        }
        ObjectMapper json = new ObjectMapper();
        PrintStream answers = System.out;
        BufferedReader commands =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            JsonNode command = json.readTree(line);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            ByteArrayOutputStream err = new ByteArrayOutputStream();
            System.setOut(new PrintStream(out, true, StandardCharsets.UTF_8));
            System.setErr(new PrintStream(err, true, StandardCharsets.UTF_8));
            byte[] in = command.path("in").asText().getBytes(StandardCharsets.UTF_8);
            System.setIn(new ByteArrayInputStream(in));
            int code = run(command, jars.toArray(new URL[0]));
            answers.println(json.writeValueAsString(Map.of(
                    "code", code,
                    "out", out.toString(StandardCharsets.UTF_8),
                    "err", err.toString(StandardCharsets.UTF_8))));
            answers.flush();
        }
    }

    private static void exit(int code) {
        if (exitCode == null) {
            exitCode = code;
        }
        throw new Exited();
    }

    private static int run(JsonNode command, URL[] jars) {
        List<String> args = new ArrayList<>();
        command.get("args").forEach(arg -> args.add(arg.asText()));
        exitCode = null;
        ClassLoader before = Thread.currentThread().getContextClassLoader();
        try (Fresh fresh = new Fresh(jars)) {
            Thread.currentThread().setContextClassLoader(fresh);
            Class<?> tool = fresh.loadClass(command.get("tool").asText());
            try {
                tool.getMethod("main", String[].class)
                        .invoke(null, (Object) args.toArray(new String[0]));
            } finally {
                hooks.forEach(Runnable::run);
                hooks.clear();
            }
            return exitCode == null ? 0 : exitCode;
        } catch (InvocationTargetException thrown) {
            if (exitCode != null) {
                return exitCode;
            }
            thrown.getCause().printStackTrace();
            return 1;
        } catch (Exception thrown) {
            thrown.printStackTrace();
            return 1;
        } finally {
            Thread.currentThread().setContextClassLoader(before);
        }
    }
}
